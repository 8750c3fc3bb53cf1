"""Which gRPC calls are let in, and what of their metadata is passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from venvd_contract.errors import Unauthenticated
from venvd_http.auth import Key, TokenGuard, bearer_token
from venvd_http.proxies import HEADER, TrustedProxies

_FORWARDED_FOR = HEADER.decode()
_SESSION = "x-venvd-session"
_NOT_PASSED_ON = ("grpc-", ":", "user-agent", "te", "content-type", _FORWARDED_FOR)

Metadata = Iterable[tuple[str, Any]] | None


@dataclass(frozen=True)
class Admitted:
    """A call that was let in.

    Attributes:
        key: the access key that it showed, if any.
        session: that its metadata name.
        metadata: for the replica.
    """

    key: Key | None
    session: str | None
    metadata: tuple[tuple[str, Any], ...]


class Entrance:
    """Checks the tokens of calls."""

    def __init__(self, guard: TokenGuard, proxies: TrustedProxies) -> None:
        self._guard = guard
        self._proxies = proxies

    def knows(self, metadata: Metadata) -> bool:
        """Return whether a call whose message has not come has a known token."""
        return self._guard.recognises(_find_token(metadata))

    def admit(self, context: Any) -> Admitted:
        """Let a call in.

        Raises:
            Unauthenticated, Forbidden: as `TokenGuard.check`.
        """
        metadata = tuple(context.invocation_metadata() or ())
        token = _find_token(metadata)
        forwarded = [value for name, value in metadata if name == _FORWARDED_FOR]
        client = self._proxies.find_client(_describe_peer(context.peer()), forwarded)
        try:
            caller = self._guard.admit(token, client)
        except Unauthenticated as error:
            if token is None:
                raise Unauthenticated(f'{error.message}: send it as the metadata "authorization: Bearer …"') from None
            raise
        passed = tuple(item for item in metadata if not item[0].startswith(_NOT_PASSED_ON))
        session = next((value for name, value in metadata if name == _SESSION), None)
        return Admitted(caller.key, session, (*passed, (_FORWARDED_FOR, ", ".join([*forwarded, client]))))


def _find_token(metadata: Metadata) -> str | None:
    given = next((value for name, value in metadata or () if name == "authorization"), None)
    return None if given is None else bearer_token(given.encode("latin-1", "replace"))


def _describe_peer(peer: str) -> str:
    """Return the address in what gRPC says of a peer: `ipv4:192.0.2.1:50000`, `ipv6:%5B::1%5D:50000`."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else kind


@contextmanager
def tied(key: Key | None) -> Iterator[None]:
    """End this task's block as soon as an access key ends.

    Raises:
        Unauthenticated: the key ended.
    """
    task = asyncio.current_task()
    if key is None or task is None:
        yield
        return

    def end() -> None:
        task.cancel()

    key.watch(end)
    try:
        yield
    except asyncio.CancelledError:
        if not key.ended:
            raise
        task.uncancel()
        raise key.error() from None
    finally:
        key.unwatch(end)
