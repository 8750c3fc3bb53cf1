"""The source texts of executed code, under names such as `<eval-3>`, for tracebacks and `inspect.getsource`."""

from __future__ import annotations

import linecache
from collections import OrderedDict
from typing import Dict

_MOST_BYTES = 16 << 20


class Sources:
    """Keeps the newest texts, up to 16 MB in all. It drops texts that define functions last."""

    def __init__(self) -> None:
        self._numbers: Dict[str, int] = {}
        self._passing: "OrderedDict[str, int]" = OrderedDict()
        self._defining: "OrderedDict[str, int]" = OrderedDict()
        self._bytes = 0

    def name(self, kind: str) -> str:
        """Return a new name for a text."""
        number = self._numbers.get(kind, 0) + 1
        self._numbers[kind] = number
        return "<{}-{}>".format(kind, number)

    def add(self, name: str, source: str, defines: bool) -> None:
        # Without a time of change, linecache assumes that a loader gave the text, and keeps it.
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        self._bytes += len(source) - self._passing.pop(name, 0) - self._defining.pop(name, 0)
        (self._defining if defines else self._passing)[name] = len(source)
        while self._bytes > _MOST_BYTES and self._passing:
            self._drop(self._passing)
        while self._bytes > _MOST_BYTES and len(self._defining) > 1:
            self._drop(self._defining)

    def forget(self, name: str) -> None:
        """Drop a text unless it defines something."""
        size = self._passing.pop(name, None)
        if size is not None:
            self._bytes -= size
            linecache.cache.pop(name, None)

    def _drop(self, kept: "OrderedDict[str, int]") -> None:
        name, size = kept.popitem(last=False)
        self._bytes -= size
        linecache.cache.pop(name, None)
