"""The metadata of a call: token, session, value mode, name, lease; and its deadline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from venvd_contract.errors import DeadlineExceeded, InvalidRequest, Unauthenticated
from venvd_contract.suggestions import suggest
from venvd_http.auth import Caller, Key, TokenGuard
from venvd_http.proxies import HEADER, TrustedProxies, parse_grpc_peer

RESERVE = 0.05
"""The share of a call's time, and the most seconds, that are reserved for its answer after a timeout: gRPC delivers
nothing after the deadline, and the answer says whether the session's state is lost."""


class Context(Protocol):
    """The part of `grpc.aio.ServicerContext` that is used."""

    def time_remaining(self) -> float | None: ...
    def peer(self) -> str: ...


_PREFIX = "x-venvd-"
_FORWARDED_FOR = HEADER.decode()
_OWN_METADATA = [f"{_PREFIX}{name}" for name in ("session", "values", "call", "lease")]

Metadata = Iterable[tuple[str, Any]] | None
"""The type of `invocation_metadata`."""


@dataclass(slots=True)
class CallFields:
    """The fields in the metadata of a call, and its `caller`, which `authorise` sets."""

    token: str | None = None
    session: str | None = None
    values: str = "plain"
    call: str | None = None
    lease: float | None = None
    forwarded: tuple[str, ...] = ()
    """The values of `X-Forwarded-For`, which proxies add."""
    caller: Caller | None = None

    @property
    def key(self) -> Key | None:
        """The access key of the call, if any."""
        return None if self.caller is None else self.caller.key


def read_metadata(metadata: Metadata) -> CallFields:
    """Read the metadata of a call.

    Raises:
        InvalidRequest: the authorization is no bearer token, the lease no number, or other metadata of ours unknown.
    """
    fields = CallFields()
    for key, value in metadata or ():
        if key == "authorization":
            fields.token = parse_bearer(value)
        elif key == "x-venvd-session":
            fields.session = value
        elif key == "x-venvd-values":
            fields.values = value
        elif key == "x-venvd-call":
            fields.call = value
        elif key == "x-venvd-lease":
            fields.lease = parse_seconds(value)
        elif key == _FORWARDED_FOR:
            fields.forwarded += (value,)
        elif key.startswith(_PREFIX):
            refuse_metadata(key)
    return fields


def refuse_metadata(key: str) -> NoReturn:
    """Refuse unknown metadata with venvd's prefix."""
    if key == f"{_PREFIX}timeout":
        raise InvalidRequest(f'the metadata "{key}" is unknown; a timeout is the deadline of the call')
    raise InvalidRequest(f'the metadata "{key[:80]}" is unknown; {suggest(key, _OWN_METADATA)}')


def parse_seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InvalidRequest('the metadata "x-venvd-lease" takes seconds, such as 60') from None


def parse_bearer(value: str) -> str:
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidRequest('the metadata "authorization" takes "Bearer" and a token')
    return token.strip()


class PeerGuard(TokenGuard):
    """A guard that remembers the peers of accepted calls.

    Attributes:
        accepted: peers as gRPC calls them, each with its port and so one connection.
        proxies: the trusted reverse proxies.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.accepted: set[str] = set()
        self.proxies = TrustedProxies()


def has_known_token(guard: PeerGuard, metadata: Metadata) -> bool:
    """Return whether the metadata of a call have a token that the guard knows."""
    given = next((value for key, value in metadata or () if key == "authorization"), None)
    try:
        return guard.recognises(None if given is None else parse_bearer(given))
    except InvalidRequest:
        return False


def authorise(guard: PeerGuard, fields: CallFields, context: Context) -> None:
    """Check the token of a call, and note its caller.

    Raises:
        Unauthenticated, Forbidden: as `TokenGuard.check`.
    """
    peer = context.peer()
    try:
        client = guard.proxies.find_client(parse_grpc_peer(peer), fields.forwarded)
        fields.caller = guard.admit(fields.token, client)
        guard.accepted.add(peer)
    except Unauthenticated as error:
        if fields.token is None:
            raise Unauthenticated(f'{error.message}: send it as the metadata "authorization: Bearer …"') from None
        raise


def find_timeout(context: Context) -> float | None:
    """Return the seconds that the call may take; None if the client set no deadline.

    Raises:
        DeadlineExceeded: there is no time left.
    """
    left = context.time_remaining()
    if left is None:
        return None
    if left <= 0:
        raise DeadlineExceeded("the deadline had passed before the call began")
    return left - min(left * RESERVE, RESERVE)
