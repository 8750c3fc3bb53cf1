"""Decides which gRPC calls may enter, and which of their metadata the router passes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from venvd_contract.errors import Unauthenticated
from venvd_http.auth import Key, TokenGuard, bearer_token
from venvd_http.proxies import HEADER, TrustedProxies, parse_grpc_peer

_FORWARDED_FOR = HEADER.decode()
_SESSION = "x-venvd-session"
_NOT_PASSED_ON = ("grpc-", ":", "user-agent", "te", "content-type", _FORWARDED_FOR)

Metadata = Iterable[tuple[str, Any]] | None


@dataclass(frozen=True)
class Admitted:
    """A call that may enter.

    Attributes:
        key: the access key that it showed, if any.
        session: the session that its metadata name, if any.
        metadata: the metadata for the replica.
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
        """Return whether a call has a known token, before its message has come."""
        return self._guard.recognises(_find_token(metadata))

    def admit(self, context: Any) -> Admitted:
        """Check the token of a call, and let the call in.

        Raises:
            Unauthenticated, Forbidden: as `TokenGuard.check`.
        """
        metadata = tuple(context.invocation_metadata() or ())
        token = _find_token(metadata)
        forwarded = [value for name, value in metadata if name == _FORWARDED_FOR]
        client = self._proxies.find_client(parse_grpc_peer(context.peer()), forwarded)
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
