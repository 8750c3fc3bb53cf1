"""The limits of a session: the backend's defaults, changed by what a client asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from venvd_contract.commands import Limits
from venvd_contract.errors import InvalidRequest

_NAMES = tuple(field.name for field in fields(Limits))
_MAY_BE_ZERO = frozenset({"outputBytes", "fileSizeBytes", "handles"})
_LARGEST = 2**53
_MIB = 1 << 20
_UNLIMITED_RESULT = 128 * _MIB
_UNLIMITED_OUTPUT = 32 * _MIB
_LONGEST_ESCAPE = 6


def merged(defaults: Limits, asked: Mapping[str, Any] | None) -> Limits:
    """`defaults` with the fields of `asked`; null there keeps the default.

    Raises:
        InvalidRequest: an unknown limit, or one that is no whole number in its range; says which.
    """
    changes = {name: _checked(name, value) for name, value in (asked or {}).items() if value is not None}
    return replace(defaults, **changes)


def _checked(name: str, value: Any) -> int:
    if name not in _NAMES:
        raise InvalidRequest(f'"{name[:40]}" is no limit; known are {", ".join(_NAMES)}')
    least = 0 if name in _MAY_BE_ZERO else 1
    if type(value) is not int or not least <= value <= _LARGEST:
        raise InvalidRequest(f'the limit "{name}" takes a whole number, {least} or more')
    return value


def largest_reply(limits: Limits) -> int:
    """Bytes that one reply of a session with these limits can have; more than that comes from a misbehaving one."""
    result = _UNLIMITED_RESULT if limits.resultBytes is None else limits.resultBytes
    output = _UNLIMITED_OUTPUT if limits.outputBytes is None else limits.outputBytes
    return _MIB + 2 * result + _LONGEST_ESCAPE * output
