"""The rules for the limits of a session: their names and their values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Mapping, Optional

from venvd_contract.errors import InvalidRequest
from venvd_contract.session_requests import Limits
from venvd_contract.suggestions import check_names

_NAMES = tuple(Limits.__dataclass_fields__)
_MAY_BE_ZERO = frozenset({"outputBytes", "fileSizeBytes", "handles"})
_LARGEST = 2**53


NO_LIMITS = Limits(**dict.fromkeys(_NAMES))


def merge_limits(defaults: Limits, requested: Optional[Mapping[str, Any]], ceiling: Limits = NO_LIMITS) -> Limits:
    """Return `defaults` with the limits that a client requests; null keeps the default.

    Raises:
        InvalidRequest: a limit is unknown, not a whole number in its range, or above the ceiling; the message says
            which.
    """
    changes = {name: _check(name, value) for name, value in (requested or {}).items() if value is not None}
    for name, value in changes.items():
        most = getattr(ceiling, name)
        if most is not None and value > most:
            raise InvalidRequest(
                'the limit "{}" is {} at most on this backend (VENVD_MAX_SESSION_LIMITS), and not {}'.format(
                    name, most, value
                )
            )
    return replace(defaults, **changes)


def lower_limits(limits: Limits, ceiling: Limits) -> Limits:
    """Return `limits`, each lowered to its ceiling; null is no limit, in both."""
    ceilings = {name: getattr(ceiling, name) for name in _NAMES if getattr(ceiling, name) is not None}
    return replace(limits, **{name: _lower(getattr(limits, name), most) for name, most in ceilings.items()})


def _lower(value: Optional[int], most: int) -> int:
    return most if value is None else min(value, most)


def parse_limits(fields: Dict[str, Any]) -> Limits:
    """Return the limits in a `start` command: an absent one keeps its default, null is no limit.

    Raises:
        InvalidRequest: as `merge_limits`.
    """
    return Limits(**{name: value if value is None else _check(name, value) for name, value in fields.items()})


def _check(name: str, value: Any) -> int:
    check_names([name], _NAMES, "the limit")
    least = 0 if name in _MAY_BE_ZERO else 1
    if type(value) is not int or not least <= value <= _LARGEST:
        raise InvalidRequest('the limit "{}" takes a whole number, {} or more'.format(name, least))
    return value
