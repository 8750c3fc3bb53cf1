"""The table of docs/values.md: values, and their JSON in both modes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).resolve().parents[2] / "docs" / "values.md"
IMPORTS = """
from collections import namedtuple
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from http import HTTPStatus
try:
    import numpy, pandas
except ImportError:
    pass
"""
"""What the examples of the table need."""

_ROW = re.compile(r"\| (?P<label>[^|]+) \| `(?P<expression>.+?)` \| (?P<plain>.+?) \| (?P<tagged>.+?) \|")


class Row(NamedTuple):
    """One row of the table; the JSON is None where the value stays behind a handle."""

    expression: str
    plain: str | None
    tagged: str | None

    @property
    def package(self) -> str | None:
        """The package that the example needs, if any."""
        return next((name for name in ("numpy", "pandas") if name + "." in self.expression), None)


def evaluate(row: Row) -> Any:
    """Return the value of a row in this process."""
    names: dict[str, Any] = {}
    exec(IMPORTS, names)  # noqa: S102 - the examples are ours
    return eval(row.expression, names)  # noqa: S307 - the examples are ours


def _json(cell: str) -> str | None:
    return None if cell == "handle" else cell.strip("`")


ROWS = [
    Row(match["expression"], _json(match["plain"]), _json(match["tagged"]))
    for line in PAGE.read_text().splitlines()
    if (match := _ROW.fullmatch(line)) and match["expression"] != "plain"
]
