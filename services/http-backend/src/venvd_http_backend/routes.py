"""The routes: the command of each method and path."""

from __future__ import annotations

import re
from collections.abc import Mapping

from venvd_contract.commands import COMMANDS, STREAMED
from venvd_contract.venvs import VENV_COMMANDS

_ROUTES = (
    *((*command.http, command.name) for command in (*COMMANDS, *STREAMED, *VENV_COMMANDS) if command.name != "ping"),
    ("HEAD", "/api/array", "array.get"),
)
FAST_ROUTES: Mapping[bytes, str] = {
    path.encode(): command for method, path, command in _ROUTES if method == "POST" and path.startswith("/api/")
}


def _pattern(path: str) -> re.Pattern[str]:
    """The path of a file may contain anything, slashes and line ends too; other parameters are one segment."""
    path = path.replace("{path}", r"(?P<path>[\s\S]*)")
    return re.compile(re.sub(r"\{(id|name)\}", r"(?P<\1>[^/]+)", path))


_BY_PATH: dict[str, dict[str, str]] = {}
for _method, _path, _command in _ROUTES:
    _BY_PATH.setdefault(_path, {})[_method] = _command
_PATTERNS = [(_pattern(path), methods) for path, methods in _BY_PATH.items() if "{" in path]


def find_route(path: str) -> tuple[Mapping[str, str], dict[str, str]] | None:
    """Return the commands of a path by method, and the parameters in the path; None for an unknown path."""
    methods = _BY_PATH.get(path)
    if methods is not None:
        return methods, {}
    for pattern, methods in _PATTERNS:
        match = pattern.fullmatch(path)
        if match:
            return methods, match.groupdict()
    return None
