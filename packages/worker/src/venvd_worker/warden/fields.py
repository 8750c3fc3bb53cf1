"""What the warden passes on of what user code may have written."""

from __future__ import annotations

from typing import Any


def passable(said: Any, most: int = 2000) -> str:
    """What a process said that runs user code, as a text of `most` characters at most that every reader takes."""
    return str(said)[:most].encode("utf-8", "replace").decode()
