"""Keeps the output of one `exec` up to a limit, and streams it as it appears."""

from __future__ import annotations

import codecs
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from venvd_contract.displays import add_display, find_places
from venvd_contract.framing import MAX_LINE, dump
from venvd_contract.session_requests import Limits

Emit = Callable[[str, Any], None]

_decoder = codecs.getincrementaldecoder("utf-8")
_QUOTES = 2
_MOST_ROOM = 64 * 1024
"""The most bytes of a result to reserve for its other fields."""


class Bound(NamedTuple):
    """The most bytes of output as JSON, and the limit that sets them."""

    size: int
    reason: str


def find_bound(limits: Limits) -> Bound:
    """Find how much output an `exec` may have, so that its result fits into the limits and into a line."""
    whole = Bound(MAX_LINE, "a line holds {} bytes".format(MAX_LINE))
    if limits.resultBytes is not None and limits.resultBytes < MAX_LINE:
        whole = Bound(limits.resultBytes, "the limit resultBytes is {}".format(limits.resultBytes))
    room = min(_MOST_ROOM, whole.size // 4)
    if limits.outputBytes is not None and limits.outputBytes <= whole.size - room:
        return Bound(limits.outputBytes, "the limit outputBytes is {}".format(limits.outputBytes))
    return Bound(whole.size - room, whole.reason)


class Output:
    """The output of one `exec`.

    Args:
        limit: the limit of both streams and all displays together.
        emit: takes each piece of output as it comes; None if the client did not ask for that.
    """

    def __init__(self, limit: Bound, emit: Optional[Emit]) -> None:
        self._limit = limit
        self._left = limit.size
        self._emit = emit
        self._decoders = {"stdout": _decoder("replace"), "stderr": _decoder("replace")}
        self._texts: Dict[str, List[str]] = {"stdout": [], "stderr": []}
        self.display: List[Dict[str, Any]] = []
        self.truncated = False

    def write(self, stream: str, data: bytes) -> None:
        """Add bytes that came out of `stdout` or `stderr`."""
        if self.truncated:
            return
        self._take(stream, self._decoders[stream].decode(data))

    def show(self, bundle: Dict[str, Any]) -> None:
        """Add a MIME bundle, or update one. Drop a whole bundle that does not fit."""
        size = _bundle_size(bundle)
        size -= sum(_bundle_size(self.display[place]) for place in find_places(self.display, bundle))
        if size > self._left:
            self.truncated = True
            return
        self._left -= size
        add_display(self.display, bundle)
        if self._emit is not None:
            self._emit("display", bundle)

    def end(self) -> None:
        """Finish the output, and replace half a character at its end."""
        for stream, decoder in self._decoders.items():
            if not self.truncated:
                self._take(stream, decoder.decode(b"", True))

    def text(self, stream: str) -> str:
        return "".join(self._texts[stream])

    def _take(self, stream: str, text: str) -> None:
        size = _size(text)
        if size <= self._left:
            self._add(stream, text)
        else:
            self._add(stream, text[: _count_fitting(text, self._left)])
            self.truncated = True
            self._add(stream, "\n[output cut: {}]\n".format(self._limit.reason))
        self._left -= size

    def _add(self, stream: str, text: str) -> None:
        if text:
            self._texts[stream].append(text)
            if self._emit is not None:
                self._emit(stream, text)


def _bundle_size(bundle: Dict[str, Any]) -> int:
    return sum(_size(mime) + _size(str(data)) for mime, data in bundle.items())


def _size(text: str) -> int:
    """Return the bytes that a text takes as JSON. Some characters take six."""
    return len(dump(text).encode("utf-8", "surrogatepass")) - _QUOTES


def _count_fitting(text: str, size: int) -> int:
    """Return how many characters from the start take no more than `size` bytes."""
    fits, does_not = 0, len(text) + 1
    while does_not - fits > 1:
        middle = (fits + does_not) // 2
        if _size(text[:middle]) <= size:
            fits = middle
        else:
            does_not = middle
    return fits
