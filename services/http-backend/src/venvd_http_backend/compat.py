"""The paths of the older host's HTTP server: commands without `/api`.

The setting `compat` turns them on. The answers are those of the new paths.
"""

from __future__ import annotations

from collections.abc import Mapping

_COMMANDS = (
    "import",
    "create",
    "call",
    "getattr",
    "setattr",
    "eval",
    "dispose",
    "tofloatarray",
    "tofloatarray2d",
    "wrap",
)
PATHS: Mapping[str, str] = {
    **{f"/{command}": f"/api/{command}" for command in _COMMANDS},
    "/module_available": "/api/module-available",
}
"""The new path of each old one."""


def add_fast(routes: Mapping[bytes, str]) -> dict[bytes, str]:
    """Return the routes of the fast path together with the old paths of the same commands."""
    return {**routes, **{old.encode(): routes[new.encode()] for old, new in PATHS.items() if new.encode() in routes}}
