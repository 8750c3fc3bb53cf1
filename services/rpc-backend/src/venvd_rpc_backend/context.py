"""What a call says beside its message: token, session, value mode, deadline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from venvd_contract.errors import DeadlineExceeded, InvalidRequest, Unauthenticated
from venvd_http.auth import TokenGuard

ROOM = 0.05
"""Share of the time left, and at most seconds, in which the answer of a call that ran out of time still reaches the
client, with what became of the session's state: after the deadline gRPC would tell it nothing."""


class Context(Protocol):
    """What is used of `grpc.aio.ServicerContext`."""

    def time_remaining(self) -> float | None: ...


Metadata = Iterable[tuple[str, Any]] | None
"""Of `invocation_metadata`."""


@dataclass(slots=True)
class Asked:
    """The metadata of a call that mean something here."""

    token: str | None = None
    session: str | None = None
    values: str = "plain"
    call: str | None = None
    lease: float | None = None


def asked(metadata: Metadata) -> Asked:
    """Read the metadata.

    Raises:
        InvalidRequest: the authorization is no bearer token.
    """
    found = Asked()
    for key, value in metadata or ():
        if key == "authorization":
            found.token = bearer(value)
        elif key == "x-venvd-session":
            found.session = value
        elif key == "x-venvd-values":
            found.values = value
        elif key == "x-venvd-call":
            found.call = value
        elif key == "x-venvd-lease":
            found.lease = seconds(value)
    return found


def seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InvalidRequest('the metadata "x-venvd-lease" takes seconds, such as 60') from None


def bearer(value: str) -> str:
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidRequest('the metadata "authorization" takes "Bearer" and a token')
    return token.strip()


def authorise(guard: TokenGuard, found: Asked) -> None:
    """Check the token of a call.

    Raises:
        Unauthenticated, Forbidden: as `TokenGuard.check`.
    """
    try:
        guard.check(found.token)
    except Unauthenticated as error:
        if found.token is None:
            raise Unauthenticated(f'{error.message}: send it as the metadata "authorization: Bearer …"') from None
        raise


def timeout(context: Context) -> float | None:
    """Seconds that the call may take; None where the client set no deadline.

    Raises:
        DeadlineExceeded: there is no time left.
    """
    left = context.time_remaining()
    if left is None:
        return None
    if left <= 0:
        raise DeadlineExceeded("the deadline had passed before the call began")
    return left - min(left * ROOM, ROOM)
