"""The sender of a request, and the scopes of its token (`venvd_contract.access`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import ColumnElement, false, or_
from sqlalchemy.orm import InstrumentedAttribute

from venvd_contract.access import ADMIN, OPERATOR, USE, VENV
from venvd_contract.errors import Forbidden

OLDER_ADMIN = "admin (older)"
"""The name of the home's tokens from before a rotation that have not ended."""


@dataclass(frozen=True)
class Visible:
    """What a caller without the scope `operator` may see: names of venvs and of backends, with `*` for any text."""

    venvs: tuple[str, ...]
    backends: tuple[str, ...]


@dataclass(frozen=True)
class Caller:
    """The owner of a token.

    Attributes:
        name: its name in logs and in the audit log.
        title: its name in errors, such as `the key "ci"`.
        scopes: what it may do. `*` in the name of a venv stands for any text.
        is_valid: whether the token is still accepted. A key may be revoked or expire while a stream runs.
    """

    name: str
    title: str
    scopes: tuple[str, ...]
    is_valid: Callable[[], bool] = lambda: True

    @property
    def is_home(self) -> bool:
        """Whether the token is one of the controller's home. Such a token never leaves the controller."""
        return self.name in {ADMIN, OLDER_ADMIN}

    @property
    def is_operator(self) -> bool:
        return ADMIN in self.scopes or OPERATOR in self.scopes

    @property
    def visible(self) -> Visible | None:
        """What the caller may see; None is everything."""
        if self.is_operator:
            return None
        venvs = tuple(scope.removeprefix(VENV) for scope in self.scopes if scope.startswith(VENV))
        backends = tuple(scope.removeprefix(USE) for scope in self.scopes if scope.startswith(USE))
        return Visible(venvs, backends)

    def has(self, scope: str) -> bool:
        """Return whether its scopes cover `scope`. Any venv covers `venv:*`, and any backend covers `use:*`."""
        if ADMIN in self.scopes:
            return True
        if OPERATOR in self.scopes:
            return scope != ADMIN
        if scope in {f"{VENV}*", f"{USE}*"}:
            return any(own.startswith(scope[:-1]) for own in self.scopes)
        return any(fnmatchcase(scope, own) for own in self.scopes)

    def require(self, scopes: Sequence[str], what: str = "this route") -> None:
        """Check that its scopes cover one of `scopes`.

        Raises:
            Forbidden: they do not; the message says what `what` needs, and what the caller has.
        """
        if not any(self.has(scope) for scope in scopes):
            raise Forbidden(f"{what} needs {' or '.join(scopes)}; {self.title} has {', '.join(self.scopes)}")


def match_names(column: InstrumentedAttribute[Any], names: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition that a column has one of these names. `*` in a name stands for any text."""
    return or_(false(), *(column.like(name.replace("*", "%")) for name in names))
