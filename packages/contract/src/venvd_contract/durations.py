"""Durations as ISO 8601 text and back."""

from __future__ import annotations

import datetime as dt


def count_nanoseconds(value: dt.timedelta) -> int:
    """Return the length of a duration, including the nanoseconds of a pandas Timedelta."""
    microseconds = (value.days * 86400 + value.seconds) * 1_000_000 + value.microseconds
    return microseconds * 1000 + getattr(value, "nanoseconds", 0)


def write_duration(nanoseconds: int) -> str:
    """Write a duration as ISO 8601 in days and seconds, with its sign first, like .NET and XML Schema."""
    days, rest = divmod(abs(nanoseconds), 86400 * 10**9)
    seconds, below = divmod(rest, 10**9)
    fraction = ".{:09d}".format(below).rstrip("0") if below else ""
    sign, date = "-" if nanoseconds < 0 else "", "{}D".format(days) if days else ""
    return "{}P{}T{}{}S".format(sign, date, seconds, fraction)


def parse_timedelta(text: str) -> dt.timedelta:
    """Parse an ISO 8601 duration of days, hours, minutes and seconds, such as `P1DT2.5S` or `-P1D`.

    Raises:
        ValueError: the text is not such a duration.
    """
    if type(text) is not str:
        raise TypeError("a string is needed, not {}".format(type(text).__name__))
    body = text
    sign = -1 if body.startswith("-") else 1
    body = body.lstrip("+-")
    if not body.startswith("P") or len(body) < 3:
        raise ValueError("an ISO 8601 duration such as P1DT2.5S is needed")
    days, separator, clock = body[1:].partition("T")
    if separator and not clock:
        raise ValueError("an ISO 8601 duration has something behind its T")
    parts = dict.fromkeys("DHMS", 0.0)
    for text_of_units, units in ((days, "D"), (clock, "HMS")):
        left = text_of_units
        for unit in units:
            number, separator, rest = left.partition(unit)
            if separator:
                parts[unit], left = float(number), rest
        if left:
            raise ValueError("an ISO 8601 duration in days, hours, minutes and seconds is needed")
    whole = dt.timedelta(days=parts["D"], hours=parts["H"], minutes=parts["M"], seconds=parts["S"])
    return sign * whole
