"""The senders of requests, with the fields that calls need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from venvd_contract.errors import VenvdError


class Access(Protocol):
    """The access key of a client; the client's calls end with it."""

    @property
    def name(self) -> str: ...
    @property
    def ended(self) -> bool: ...
    def error(self) -> VenvdError: ...
    def watch(self, on_end: Callable[[], None]) -> None: ...
    def unwatch(self, on_end: Callable[[], None]) -> None: ...


class Caller(Protocol):
    """The sender of a request.

    Attributes:
        peer: the address of the sender.
        name: the name of its token in logs; None if it needs no token.
        key: its access key; None if it sent another token or none.
    """

    @property
    def peer(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def key(self) -> Access | None: ...


def name_caller(caller: Caller | None) -> str | None:
    """Return the name of a caller in logs."""
    return None if caller is None else caller.name
