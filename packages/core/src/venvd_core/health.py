"""Readiness: a list of registered checks, each a function that says what is wrong, or nothing."""

from __future__ import annotations

from collections.abc import Callable

Check = Callable[[], str | None]


class Checks:
    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def register(self, name: str, check: Check) -> None:
        self._checks[name] = check

    def failing(self) -> dict[str, str]:
        """What is wrong, by the name of the check; empty means ready."""
        found = ((name, check()) for name, check in self._checks.items())
        return {name: wrong for name, wrong in found if wrong is not None}
