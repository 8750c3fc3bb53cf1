"""The fields of requests to the warden, checked; and what it passes on of what user code may have written."""

from __future__ import annotations

from typing import Any, Dict, Optional

from venvd_contract.errors import InvalidRequest


def text(message: Dict[str, Any], name: str, default: Optional[str] = None) -> str:
    value = message.get(name, default)
    if type(value) is not str:
        raise InvalidRequest('"{}" must be a string'.format(name))
    return value


def whole(message: Dict[str, Any], name: str) -> int:
    value = message.get(name)
    if type(value) is not int or value < 0:
        raise InvalidRequest('"{}" must be a whole number from 0 on'.format(name))
    return value


def seconds(message: Dict[str, Any], name: str, default: float) -> float:
    value = message.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not 0 <= value < float("inf"):
        raise InvalidRequest('"{}" must be a number of seconds from 0 on'.format(name))
    return float(value)


def passable(said: Any, most: int = 2000) -> str:
    """What a process said that runs user code, as a text of `most` characters at most that every reader takes."""
    return str(said)[:most].encode("utf-8", "replace").decode()
