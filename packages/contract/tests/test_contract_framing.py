"""Lines, attachments and what is neither."""

from __future__ import annotations

import json
from typing import Any

import pytest

from venvd_contract.errors import InvalidRequest, TooLarge
from venvd_contract.framing import (
    MAX_ATTACHMENT_BYTES,
    MAX_ATTACHMENTS,
    Buffer,
    attachment_sizes,
    dump_line,
    parse_line,
)


def fed(*parts: bytes, limit: int = 100) -> Buffer:
    buffer = Buffer(limit)
    for part in parts:
        buffer.feed(part)
    return buffer


def test_lines_come_whole() -> None:
    """A line is given once its end is there, and only then."""
    buffer = fed(b'{"a"')
    assert buffer.line() is None
    buffer.feed(b":1}\n{")
    assert buffer.line() == b'{"a":1}'
    assert buffer.line() is None
    assert len(buffer) == 1


def test_byte_by_byte() -> None:
    """However a stream is cut, the lines are the same."""
    stream = b'\xef\xbb\xbf{"id":1}\r\n{"text":"\xe2\x98\x83"}\n\n'
    buffer, lines = Buffer(mark=b"\xef\xbb\xbf"), []
    for position in range(len(stream)):
        buffer.feed(stream[position : position + 1])
        line = buffer.line()
        if line is not None:
            lines.append(line)
    assert lines == [b'{"id":1}', '{"text":"☃"}'.encode(), b""]


def test_a_mark_counts_only_at_the_beginning() -> None:
    """A mark is skipped before the first line and nowhere else."""
    buffer = Buffer(mark=b"\xef\xbb\xbf")
    buffer.feed(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n")
    assert buffer.line() == b"a"
    assert buffer.line() == b"\xef\xbb\xbfb"


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_long_lines(end: bytes) -> None:
    """A line over the limit is an error whether or not its end came; one at the limit is none."""
    assert fed(b"x" * 100 + b"\n").line() == b"x" * 100
    with pytest.raises(TooLarge, match="100 bytes"):
        fed(b"x" * 101 + end).line()


def test_bytes_between_lines() -> None:
    """Attachments are taken off as they were announced, whatever they hold."""
    buffer = fed(b"line\n\n{}\nnext\n")
    assert buffer.line() == b"line"
    assert buffer.take(20) is None
    assert buffer.take(4) == b"\n{}\n"
    assert buffer.line() == b"next"
    assert buffer.rest() == b""


def test_rest_empties() -> None:
    """`rest` gives what is left, a half line included."""
    buffer = fed(b"a\nhalf")
    buffer.line()
    assert buffer.rest() == b"half"
    assert len(buffer) == 0


@pytest.mark.parametrize("text", ['{"a":[1,{"b":null}]}', ' {"a":1} ', "\t{}\r"])
def test_objects_are_read(text: str) -> None:
    """White space around the object is allowed."""
    assert parse_line(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"{}x", "not JSON"),
        (b"[1]", "object, not list"),
        (b"null", "object, not NoneType"),
        (b"\xff", "not UTF-8"),
        (b'{"a":NaN}', r"\$float"),
        (b'{"a":-Infinity}', r"\$float"),
        (b'{"a":1e}', "not JSON"),
    ],
)
def test_what_is_no_object(line: bytes, says: str) -> None:
    """Anything but one JSON object is refused, with the fault."""
    with pytest.raises(InvalidRequest, match=says):
        parse_line(line)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting(opening: bytes) -> None:
    """Brackets nested by the million are an error, not the end of the process."""
    with pytest.raises((TooLarge, InvalidRequest)):
        parse_line(b'{"a":' + opening * 1_000_000)


def test_sizes() -> None:
    """Absent and null announce nothing; sizes come back as they are."""
    assert attachment_sizes(None) == []
    assert attachment_sizes([0, 3]) == [0, 3]


@pytest.mark.parametrize("announced", [3, "3", {}, [-1], [1.0], [True], ["1"], [None]])
def test_bad_sizes(announced: Any) -> None:
    """What is no list of lengths is refused."""
    with pytest.raises(InvalidRequest):
        attachment_sizes(announced)


@pytest.mark.parametrize("announced", [[0] * (MAX_ATTACHMENTS + 1), [MAX_ATTACHMENT_BYTES + 1], [1 << 80]])
def test_too_many_bytes(announced: list[int]) -> None:
    """Their number and their sum are limited, before a byte is read."""
    with pytest.raises(TooLarge):
        attachment_sizes(announced)


def test_a_message_and_its_attachments() -> None:
    """What is dumped is read back, attachments announced."""
    data = dump_line({"id": 1, "text": "a\nb\u2028☃"}, [b"\n", b"", b"abc"])
    buffer = fed(data, limit=1000)
    message = parse_line(buffer.line() or b"")
    assert message == {"id": 1, "text": "a\nb\u2028☃", "attachments": [1, 0, 3]}
    assert buffer.take_parts(attachment_sizes(message["attachments"])) == [b"\n", b"", b"abc"]


def test_dumping_leaves_the_message_alone() -> None:
    """Announcing attachments does not change the caller's dictionary."""
    message = {"id": 1}
    dump_line(message, [b"x"])
    assert message == {"id": 1}


def test_only_json_is_dumped() -> None:
    """NaN and objects have no JSON form."""
    with pytest.raises(ValueError, match="JSON"):
        dump_line({"a": float("nan")})
    with pytest.raises(TypeError):
        dump_line({"a": object()})
