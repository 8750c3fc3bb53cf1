"""Times in the API's format."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def now() -> str:
    """Return the present time in RFC 3339, UTC, with milliseconds."""
    return format_time(datetime.now(UTC))


def format_time(moment: datetime) -> str:
    """Return an aware time in RFC 3339, UTC, with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def add_seconds(start: str, seconds: float) -> str:
    """Return the time that is `seconds` after `start`."""
    return format_time(datetime.fromisoformat(start) + timedelta(seconds=seconds))


def count_seconds(start: str, end: str) -> float:
    """Return the seconds between two times."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
