"""The senders of requests, as far as calls need to know them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from venvd_contract.errors import VenvdError


class Access(Protocol):
    """The key of a client, whose calls end with it."""

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
        peer: the address that it comes from.
        name: what logs call the token that it sent; None where it needed none.
        key: its access key; None is another token, or none.
    """

    @property
    def peer(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def key(self) -> Access | None: ...


def name_caller(caller: Caller | None) -> str | None:
    """Return what logs call a caller."""
    return None if caller is None else caller.name
