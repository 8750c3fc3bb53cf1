"""Checks text that user code may have written, before the warden passes it on."""

from __future__ import annotations

from typing import Any


def to_text(value: Any, most: int = 2000) -> str:
    """`value` as text of at most `most` characters that is valid UTF-8."""
    return str(value)[:most].encode("utf-8", "replace").decode()
