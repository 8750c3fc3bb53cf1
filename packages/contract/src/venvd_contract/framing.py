"""The framing of the pipe and of session streams: one line of UTF-8 JSON, then the attachments that it announces.

Nothing here reads or writes a socket. A `Buffer` takes bytes as they arrive and returns whole lines and whole
attachments. The files in tests/wire/snapshots show whole exchanges.
"""

from __future__ import annotations

import json
from json import encoder
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from venvd_contract.errors import InvalidRequest, TooLarge

MAX_LINE = 16 * 1024 * 1024
"""Bytes of one line without its end."""
MAX_ATTACHMENTS = 64
"""Number of attachments of one line."""
MAX_ATTACHMENT_BYTES = 1 << 30
"""Most bytes of all attachments of one line together."""
REQUEST_FIELDS = (
    "id", "command", "payload", "session", "timeout", "values", "stream", "call", "lease", "token", "attachments",
)  # fmt: skip
"""The fields of a request line."""


class Buffer:
    """Received bytes that are not used yet.

    A line may end in LF or CRLF. The first line may begin with `mark`, which the buffer removes.
    """

    def __init__(self, max_line: int = MAX_LINE, mark: bytes = b"") -> None:
        self.max_line = max_line
        self._data = bytearray()
        self._searched = 0
        self._mark = mark

    def __len__(self) -> int:
        return len(self._data)

    @property
    def expects_mark(self) -> bool:
        """Whether the first line may still come, with a mark."""
        return bool(self._mark)

    def feed(self, data: bytes) -> None:
        self._data += data

    def line(self) -> Optional[bytes]:
        """Return the next whole line without its end, or None if it has not arrived yet.

        Raises:
            TooLarge: the line is longer than `max_line`; the stream is then unusable.
        """
        end = self._data.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._data)
            if self._searched > self.max_line:
                raise self._too_long()
            return None
        if end > self.max_line:
            raise self._too_long()
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        self._searched = 0
        if self._mark:
            line = line.removeprefix(self._mark)
            self._mark = b""
        return line[:-1] if line.endswith(b"\r") else line

    def take(self, size: int) -> Optional[bytes]:
        """Return the next `size` bytes, or None if they have not all arrived."""
        if len(self._data) < size:
            return None
        taken = bytes(self._data[:size])
        del self._data[:size]
        self._searched = 0
        return taken

    def take_parts(self, sizes: Sequence[int]) -> Optional[List[bytes]]:
        """Return one part of each size, or None if they have not all arrived."""
        if len(self._data) < sum(sizes):
            return None
        return [self.take(size) or b"" for size in sizes]

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer if they have not all arrived; they stay in the buffer."""
        return bytes(self._data[:size])

    def rest(self) -> bytes:
        """Return all remaining bytes; the buffer is then empty."""
        return self.take(len(self._data)) or b""

    def _too_long(self) -> TooLarge:
        return TooLarge("a line is longer than the limit of {} bytes".format(self.max_line))


def _no_constant(name: str) -> Any:
    raise InvalidRequest('{} is not JSON: write {{"$float": "nan" | "inf" | "-inf"}}'.format(name))


_decoder = json.JSONDecoder(parse_constant=_no_constant)
_scan: Callable[[str, int], Tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]


def _parse(text: str) -> Any:
    """The same as `JSONDecoder.decode`, but faster for a text without surrounding white space."""
    try:
        message, end = _scan(text, 0)
    except StopIteration:
        return _decoder.decode(text)
    return message if end == len(text) else _decoder.decode(text)


def parse_whole(data: bytes) -> Dict[str, Any]:
    """Parse one line with its end into a JSON object: the same as `parse_line`, but faster.

    Raises:
        InvalidRequest, TooLarge: see `parse_line`.
    """
    try:
        text = data.decode()
        message, end = _scan(text, 0)
    except (ValueError, StopIteration, RecursionError, InvalidRequest):
        return parse_line(data[:-1])
    if type(message) is dict and end == len(text) - 1:
        return message
    return parse_line(data[:-1])


def parse_line(line: bytes) -> Dict[str, Any]:
    """Parse one line into a JSON object.

    Raises:
        InvalidRequest: the line is not UTF-8, not JSON, or not an object.
        TooLarge: the line is nested too deeply.
    """
    try:
        message = _parse(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidRequest("the line is not UTF-8: {}".format(error)) from None
    except RecursionError:
        raise TooLarge("the line is nested too deeply") from None
    except ValueError as error:
        raise InvalidRequest("the line is not JSON: {}".format(error)) from None
    if not isinstance(message, dict):
        raise InvalidRequest("the line must hold a JSON object, not {}".format(type(message).__name__))
    return message


def attachment_sizes(announced: Any) -> List[int]:
    """Return the `attachments` field of a message after checking it.

    Raises:
        InvalidRequest: the field is not a list of sizes.
        TooLarge: the message has too many attachments, or too many bytes of them.
    """
    if announced is None:
        return []
    if not isinstance(announced, list):
        raise InvalidRequest('"attachments" must be a list of lengths in bytes')
    if len(announced) > MAX_ATTACHMENTS:
        raise TooLarge("more than {} attachments".format(MAX_ATTACHMENTS))
    for size in announced:
        if type(size) is not int or size < 0:
            raise InvalidRequest('"attachments" must hold lengths in bytes, each 0 or more')
    if sum(announced) > MAX_ATTACHMENT_BYTES:
        raise TooLarge("the attachments are larger than the limit of {} bytes".format(MAX_ATTACHMENT_BYTES))
    return announced


class Number:
    """A JSON number by its text, for numbers that `int` and `float` cannot write: very long integers, and decimals."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class _NumberFound(Exception):
    """The data contains a `Number`, which the encoder of the standard library cannot write."""


def _refuse(value: Any) -> Any:
    if type(value) is Number:
        raise _NumberFound
    raise TypeError("{} has no JSON form".format(type(value).__name__))


def _dumper() -> Callable[[Any], str]:
    """Return a faster `JSONEncoder.encode`: it does not make its C part again for each call."""
    plain = json.JSONEncoder(
        ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False, default=_refuse
    )
    make = getattr(encoder, "c_make_encoder", None)
    chunks: Callable[[Any, int], Any] = (
        plain.iterencode  # type: ignore[assignment]
        if make is None
        else make(None, _refuse, encoder.encode_basestring, None, ":", ",", False, False, False)
    )
    join = "".join

    def dump(value: Any) -> str:
        try:
            return join(chunks(value, 0))
        except _NumberFound:
            return _dump_numbers(value)

    return dump


dump: Callable[[Any], str] = _dumper()
"""Encodes a value as JSON without white space; raises ValueError, TypeError or RecursionError if that fails."""


def _dump_numbers(value: Any) -> str:
    """Encode a value that holds a `Number`."""
    if type(value) is Number:
        return value.text
    if type(value) is list:
        return "[" + ",".join(map(_dump_numbers, value)) + "]"
    if type(value) is dict:
        return "{" + ",".join(dump(key) + ":" + _dump_numbers(item) for key, item in value.items()) + "}"
    return dump(value)


def dump_line(message: Dict[str, Any], attachments: Sequence[bytes] = ()) -> bytes:
    """Encode one message: the line, its end, and the attachments behind it.

    Raises:
        ValueError: the message has no JSON form.
    """
    if attachments:
        message = dict(message, attachments=[len(part) for part in attachments])
    line = dump(message).encode("utf-8") + b"\n"
    return b"".join((line, *attachments)) if attachments else line
