"""One line that says what a program waits for, on a terminal or in a notebook."""

from __future__ import annotations

import sys
import time
from typing import IO

from venvd._controller_api import OnEvent, ignore_event
from venvd._visible import visible
from venvd_contract.resources import Event

_WIDEST = 78


def show_progress() -> OnEvent:
    """Return a function that shows events of operations on stderr if a person watches, or else ignores them."""
    return ProgressLine(sys.stderr) if sys.stderr is not None and _is_watched(sys.stderr) else ignore_event


def _is_watched(stream: IO[str]) -> bool:
    """Return whether a stream is a terminal, or the output of a cell of a notebook."""
    return stream.isatty() or type(stream).__module__ == "ipykernel.iostream"


class ProgressLine:
    """Writes each phase and its progress over the earlier text. The end of an operation clears the line."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._since = time.monotonic()
        self._phase = ""
        self._width = 0

    def __call__(self, event: Event) -> None:
        if event.kind == "phase":
            self._phase = str(event.data)
            self._write(f"venvd: {self._phase} …")
        elif event.kind in {"progress", "log"}:
            self._write(f"venvd: {self._phase or 'waiting'} ({time.monotonic() - self._since:.0f} s): {event.data}")
        elif event.kind == "done":
            self._write("")

    def _write(self, text: str) -> None:
        """Write a text over the one before. Notebooks know carriage returns, but not all know escapes."""
        shown = visible(" ".join(text.split()))[:_WIDEST]
        self._stream.write("\r" + shown.ljust(self._width) + ("" if shown else "\r"))
        self._stream.flush()
        self._width = len(shown)
