"""Times as words of a command: a moment, and a duration."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

_DURATION = re.compile(r"(\d{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Moment(click.ParamType[str]):
    """Converts `10m` (ten minutes ago) or a time (RFC 3339; local time without an offset) to RFC 3339 in UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        ago = _DURATION.fullmatch(value)
        try:
            if ago:
                moment = datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
            else:
                moment = datetime.fromisoformat(value)
            return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
        except (ValueError, OverflowError):
            self.fail(
                f'"{value}" is no time: write 90s, 10m, 2h or 1d for how long ago, or 2026-01-31T12:00:00Z', param, ctx
            )


class Duration(click.ParamType[float]):
    """Converts `90s`, `10m`, `2h` or `1d` to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = _DURATION.fullmatch(str(value))
        if not match:
            self.fail(f'"{value}" is no duration: write 90s, 10m, 2h or 1d', param, ctx)
        return float(int(match[1]) * _SECONDS[match[2]])
