"""Checks text that user code may have written, before the warden passes it on."""

from __future__ import annotations

from typing import Any


def to_text(value: Any, most: int = 2000) -> str:
    """Return `value` as text of at most `most` characters that UTF-8 can encode."""
    return str(value)[:most].encode("utf-8", "replace").decode()
