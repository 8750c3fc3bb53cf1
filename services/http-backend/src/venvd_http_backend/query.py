"""The query of a GET, PUT or DELETE as fields of its command's request."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from venvd_contract.commands import BY_NAME, Command
from venvd_contract.errors import InvalidRequest
from venvd_contract.suggestions import check_names
from venvd_contract.venvs import VENV_COMMANDS

_TRUTH = {"1": True, "true": True, "0": False, "false": False}


def _read_bool(text: str) -> bool:
    return _TRUTH[text.lower()]


def _read_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # JSON has no such number
        raise ValueError(text)
    return number


_COMMANDS = {**BY_NAME, **{each.name: each for each in VENV_COMMANDS}}
_READS: dict[Any, tuple[Callable[[str], Any], str]] = {
    float | None: (_read_number, "a number"),
    int | None: (int, "a whole number"),
    bool | None: (_read_bool, "true or false"),
    str | None: (str, "a text"),
}


@functools.cache
def query_fields(command: Command) -> dict[str, Any]:
    """Return the fields of a request that its query may contain, with their types."""
    hints = get_type_hints(command.request)
    return {name: hint for name, hint in hints.items() if hint in _READS}


def read_fields(command: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields in a query; a `POST` has them in its body instead.

    Raises:
        InvalidRequest: a name is no field, or a value is not of its field's type; says which.
    """
    if not given:
        return {}
    declared = _COMMANDS[command]
    known = {} if declared.http[0] == "POST" else query_fields(declared)
    check_names(given, list(known), f"{command}: the field of the query")
    return {name: _read(command, name, known[name], text) for name, text in given.items()}


def _read(command: str, name: str, hint: Any, text: str) -> Any:
    read, says = _READS[hint]
    try:
        return read(text)
    except (ValueError, KeyError):
        raise InvalidRequest(f'{command}: the field "{name}" takes {says}, not "{text[:40]}"') from None
