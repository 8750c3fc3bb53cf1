"""What one `exec` prints and shows: kept up to a limit, and told as it appears."""

from __future__ import annotations

import codecs
from typing import Any, Callable, Dict, List, Optional

Emit = Callable[[str, Any], None]

_decoder = codecs.getincrementaldecoder("utf-8")


class Output:
    """The output of one `exec`.

    Args:
        limit: bytes of both streams and of all that is shown together; None for none.
        emit: told each piece as it comes, where the client asked for that.
    """

    def __init__(self, limit: Optional[int], emit: Optional[Emit]) -> None:
        self._left = limit
        self._limit = limit
        self._emit = emit
        self._decoders = {"stdout": _decoder("replace"), "stderr": _decoder("replace")}
        self._texts: Dict[str, List[str]] = {"stdout": [], "stderr": []}
        self.display: List[Dict[str, Any]] = []
        self.truncated = False

    def write(self, stream: str, data: bytes) -> None:
        """Bytes that came out of `stdout` or `stderr`."""
        if self.truncated:
            return
        if self._left is None:
            self._add(stream, self._decoders[stream].decode(data))
            return
        self._add(stream, self._decoders[stream].decode(data[: self._left]))
        if len(data) > self._left:
            self._cut(stream)
        self._left -= len(data)

    def show(self, bundle: Dict[str, Any]) -> None:
        """A MIME bundle; one that does not fit any more is dropped whole."""
        size = sum(len(mime) + len(str(data)) for mime, data in bundle.items())
        if self._left is not None:
            if size > self._left:
                self.truncated = True
                return
            self._left -= size
        self.display.append(bundle)
        if self._emit is not None:
            self._emit("display", bundle)

    def end(self) -> None:
        """No more will come: what was half a character is told as it is."""
        for stream, decoder in self._decoders.items():
            if not self.truncated:
                self._add(stream, decoder.decode(b"", True))

    def text(self, stream: str) -> str:
        return "".join(self._texts[stream])

    def _add(self, stream: str, text: str) -> None:
        if text:
            self._texts[stream].append(text)
            if self._emit is not None:
                self._emit(stream, text)

    def _cut(self, stream: str) -> None:
        self.truncated = True
        self._add(stream, "\n[output cut: the limit outputBytes is {}]\n".format(self._limit))
