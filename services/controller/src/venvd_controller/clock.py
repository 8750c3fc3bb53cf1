"""Times as the API tells them."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """The time in RFC 3339, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def elapsed(start: str, end: str) -> float:
    """Seconds between two such times."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
