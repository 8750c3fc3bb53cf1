"""Writes an array of numbers as JSON, part by part."""

from __future__ import annotations

from typing import List, Optional

from venvd_contract.errors import LimitExceeded

_PART = 1 << 18
"""Characters of one part."""


class FloatText:
    """Writes arrays of numbers as JSON.

    JSON has no NaN and no infinity: they are null in mode `plain`, and `{"$float": …}` in mode `tagged`.

    Args:
        tagged: whether the mode is `tagged`.
        most: the limit `arrayBytes`; None for none.

    Attributes:
        parts: the finished parts.
        size: bytes of the finished parts.
    """

    def __init__(self, most: Optional[int], tagged: bool) -> None:
        self.parts: List[bytes] = []
        self.size = 0
        self._most = most
        self._special = _TAGGED if tagged else _PLAIN
        self._pending: List[str] = []
        self._length = 0
        self._first = True

    def begin(self) -> None:
        """Begin an array."""
        self._append("[" if self._first else ",[")
        self._first = True

    def add(self, numbers: List[float]) -> None:
        """Write numbers into the array."""
        self.add_texts(list(map(repr, numbers)))

    def add_texts(self, texts: List[str]) -> None:
        """Write numbers that are texts. NaN and the infinities have Python's words."""
        if not texts:
            return
        text = ",".join(texts)
        if "n" in text:  # only "nan" and "inf" contain this letter
            special = self._special
            text = ",".join([special.get(each, each) for each in texts])
        if not self._first:
            self._append(",")
        self._append(text)
        self._first = False

    def end(self) -> None:
        """End the array."""
        self._append("]")
        self._first = False

    def _append(self, text: str) -> None:
        self._pending.append(text)
        self._length += len(text)
        if self._length >= _PART:
            self._flush()

    def _flush(self) -> None:
        part = "".join(self._pending).encode("ascii")
        self._pending.clear()
        self._length = 0
        self.size += len(part)
        if self._most is not None and self.size > self._most:
            raise LimitExceeded(
                "the array takes more than {} bytes as JSON: arrayBytes is {}".format(self._most, self._most)
            )
        self.parts.append(part)

    def finish(self) -> List[bytes]:
        """Return all parts.

        Raises:
            LimitExceeded: the parts have more bytes than they may.
        """
        self._flush()
        return self.parts


_PLAIN = dict.fromkeys(("nan", "inf", "-inf"), "null")
_TAGGED = {word: '{"$float":"%s"}' % word for word in _PLAIN}
