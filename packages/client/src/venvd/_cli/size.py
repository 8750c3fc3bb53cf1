"""Numbers of bytes in options."""

from __future__ import annotations

import re
from typing import Any

import click

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class Size(click.ParamType[int]):
    """A number of bytes, alone or with a unit: `512m`, `2g`, `1.5GiB`. Units are powers of 1024, as Docker's are."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        match = _SIZE.fullmatch(str(value).strip())
        size = int(float(match[1]) * 1024 ** _POWERS[match[2].lower()]) if match else 0
        if size < 1:
            self.fail(f'"{value}" is no size; give bytes, or a number with k, m, g or t, such as 512m', param, ctx)
        return size
