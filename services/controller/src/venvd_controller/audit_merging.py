"""Merges lines of the audit log, which would otherwise be too many: equal ones become one line with their number."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_SECONDS = 60.0
"""Equal lines within this time become one."""
_MAX_KINDS = 1000
"""How many kinds of lines are counted separately. All other lines of one status become one line."""
_MAX_TARGETS = 20
"""How many requests a merged line names."""
_OTHERS = "others"

Row = dict[str, Any]
"""The columns of a line, without fields and count."""


@dataclass(frozen=True)
class AuditLine:
    """A line to write to the audit log."""

    row: Row
    fields: dict[str, Any]
    count: int = 1


@dataclass
class _Lines:
    """Lines of one peer, key and status."""

    row: Row
    count: int = 0
    requests: dict[str, None] = field(default_factory=dict)
    written_at: float | None = None

    def add(self, row: Row, count: int) -> None:
        if self.count == 0:
            self.row, self.requests = row, {}
        self.count += count
        if len(self.requests) < _MAX_TARGETS:
            self.requests[f"{row['method']} {row['target']}"] = None

    def is_fresh(self, time_now: float) -> bool:
        return self.written_at is not None and time_now - self.written_at < _SECONDS


class MergedLines:
    """Counts lines by place, peer, key and status. The first is due at once; others within a minute become one."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str, str | None, int], _Lines] = {}
        self._lock = threading.Lock()

    def add(self, row: Row, count: int = 1, place: str = "") -> None:
        """Count a line, or several equal ones; `place` is the backend that got the request, if a backend did."""
        kind = (place, row["peer"], row["key"], row["status"])
        with self._lock:
            if kind not in self._lines and len(self._lines) >= _MAX_KINDS:
                kind, row = ("", _OTHERS, None, row["status"]), {**row, "peer": _OTHERS, "key": None}
            self._lines.setdefault(kind, _Lines(row)).add(row, count)

    def take_due(self, *, everything: bool = False) -> Sequence[AuditLine]:
        """Return the lines that are due; with `everything`, return all."""
        time_now = time.monotonic()
        with self._lock:
            self._lines = {
                kind: lines for kind, lines in self._lines.items() if lines.count or lines.is_fresh(time_now)
            }
            due = [each for each in self._lines.values() if each.count and (everything or not each.is_fresh(time_now))]
            taken = [AuditLine(each.row, _describe_requests(each.requests), each.count) for each in due]
            for each in due:
                each.count, each.written_at = 0, time_now
        return taken


def _describe_requests(requests: dict[str, None]) -> dict[str, Any]:
    """Return the fields of a line that stands for requests: it lists them, unless all were the same."""
    return {"requests": list(requests)} if len(requests) > 1 else {}


class Budget:
    """Allows each owner `lines` lines a minute."""

    def __init__(self, lines: int) -> None:
        self._most = lines
        self._used: dict[str, int] = {}
        self._next_minute = 0.0
        self._lock = threading.Lock()

    def take(self, owner: str) -> bool:
        """Take one line, and return whether the owner had one left."""
        with self._lock:
            if time.monotonic() >= self._next_minute:
                self._next_minute = time.monotonic() + _SECONDS
                self._used = {}
            self._used[owner] = used = self._used.get(owner, 0) + 1
            return used <= self._most
