"""Arrays out of a session and into it, as the server sees them: attachments, and segments of shared memory.

The interpreters of these tests have no numpy: what shows its memory travels all the same, and the rest says what lacks.
"""

from __future__ import annotations

import array
import contextlib
import json
import mmap
import os
from collections.abc import Iterator
from typing import Any

import pytest

from venvd_contract.errors import InvalidRequest, LimitExceeded, Unimplemented, from_fields

LARGE = 1 << 20


class Borrowed:
    """Segments as the server gets to know them."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.maps: dict[str, mmap.mmap] = {}
        self.gone: set[str] = set()

    def get(self, handle: str, **payload: Any) -> tuple[dict[str, Any], bytes]:
        """The description of an array, and its bytes wherever they lie."""
        result, parts = self.ask("array.get", {"handleId": handle, **payload})
        if result.get("segment") is None:
            return result, parts[0]
        return result, self.map(result)[: array.array("d").itemsize * result["shape"][0]]

    def ask(self, command: str, payload: dict[str, Any], **fields: Any) -> tuple[dict[str, Any], list[bytes]]:
        self.session.send(command, payload, **fields)
        reply = self.session.reply()
        parts = [self.session.bytes(size) for size in reply.get("attachments", ())]
        if "error" in reply:
            raise from_fields(reply)
        return reply["result"], parts

    def map(self, result: dict[str, Any]) -> mmap.mmap:
        """The segment of a reply, mapped once."""
        name = result["segment"]
        if name not in self.maps:
            descriptor = self.session.segments[name]
            assert os.fstat(descriptor).st_size == result["size"]
            assert os.fstat(descriptor).st_blocks * 512 >= result["size"], "every page must be there already"
            self.maps[name] = mmap.mmap(descriptor, result["size"])
        return self.maps[name]

    def tell(self, **names: list[str]) -> None:
        self.session.write(json.dumps({"segments": names}).encode() + b"\n")

    def wait_gone(self, name: str) -> None:
        while name not in self.session.gone:
            assert self.session.read_supply()


@pytest.fixture
def borrowed(session: Any) -> Iterator[Borrowed]:
    borrower = Borrowed(session)
    yield borrower
    for each in borrower.maps.values():
        with contextlib.suppress(BufferError):
            each.close()


def doubles(session: Any, count: int) -> str:
    return str(session.held(f"__import__('array').array('d', range({count}))"))


def test_what_shows_its_memory_is_an_array(borrowed: Borrowed) -> None:
    """`array.array`, bytes and memory views travel without numpy, with the type that numpy would give them."""
    for expression, dtype, shape in (
        ("__import__('array').array('d', [1, 2])", "<f8", [2]),
        ("__import__('array').array('i', [])", "<i4", [0]),
        ("memoryview(b'abcdef').cast('B', (2, 3))", "|u1", [2, 3]),
        ("memoryview(b'abcd')[::2]", None, None),
    ):
        handle = borrowed.session.held(expression)
        if dtype is None:
            with pytest.raises(Unimplemented, match="numpy"):
                borrowed.get(handle)
            continue
        result, data = borrowed.get(handle)
        assert result == {"dtype": dtype, "shape": shape, "order": "C"}
        assert len(data) == {"<f8": 16, "<i4": 0, "|u1": 6}[dtype]


def test_without_numpy_the_error_says_so(borrowed: Borrowed) -> None:
    """What only numpy could make an array of, and every array that is sent, needs numpy; the session goes on."""
    session = borrowed.session
    with pytest.raises(Unimplemented, match="needs numpy, which this venv does not have"):
        borrowed.get(session.held("__import__('collections').deque([1, 2])"))
    for fields in ({"attachments": [8]}, {}):
        payload = {"dtype": "<f8", "shape": [1], **({} if fields else {"shm": True})}
        number = session.send("array.put", payload, **fields)
        if fields:
            session.write(bytes(8))
        reply = session.reply()
        assert (reply["id"], reply["code"]) == (number, "not_implemented")
    assert session.eval("1 + 1") == 2


def test_a_large_array_lies_in_a_segment(borrowed: Borrowed) -> None:
    """For a peer that can map it, a large array is copied into a sealed memfd, whose descriptor comes once."""
    session = borrowed.session
    handle = doubles(session, LARGE)
    expected = array.array("d", range(LARGE)).tobytes()
    first, data = borrowed.get(handle, shm=True)
    assert data == expected
    again, data = borrowed.get(handle, shm=True)
    assert again["segment"] != first["segment"], "the first is still lent"
    assert data == expected
    borrowed.tell(free=[first["segment"]])
    third, data = borrowed.get(handle, shm=True)
    assert third["segment"] == first["segment"]
    assert data == expected


def test_a_segment_is_released_with_the_next_request(borrowed: Borrowed) -> None:
    """`release` in a request, or `array.release`, gives a segment back; names that are not lent are no error."""
    handle = doubles(borrowed.session, LARGE)
    first, _ = borrowed.get(handle, shm=True)
    second, _ = borrowed.get(handle, shm=True, release=[first["segment"], "unknown"])
    assert second["segment"] == first["segment"]
    result, _ = borrowed.ask("array.release", {"segments": [second["segment"]]})
    assert result == {"success": True}
    third, _ = borrowed.get(handle, shm=True)
    assert third["segment"] == first["segment"]


def test_a_segment_of_somebody_who_is_gone_is_never_used_again(borrowed: Borrowed) -> None:
    """What is dropped instead of freed is told as gone, and keeps its bytes for who still looks at it."""
    handle = doubles(borrowed.session, LARGE)
    first, data = borrowed.get(handle, shm=True)
    borrowed.tell(drop=[first["segment"]])
    other = borrowed.session.held(f"__import__('array').array('d', [7]) * {LARGE}")
    second, _ = borrowed.get(other, shm=True)
    assert second["segment"] != first["segment"]
    borrowed.wait_gone(first["segment"])
    assert borrowed.maps[first["segment"]][: len(data)] == data


def test_garbled_words_about_segments_change_nothing(borrowed: Borrowed) -> None:
    """A line about segments that makes no sense is ignored, and is not answered."""
    for said in (None, 3, [], {"free": 3}, {"free": [None, "x"], "drop": {}}):
        borrowed.session.write(json.dumps({"segments": said}).encode() + b"\n")
    assert borrowed.session.eval("1 + 1") == 2


def test_words_about_segments_hold_nothing_up(session: Any) -> None:
    """A request that came in one piece with a line about segments is answered like any other."""
    ask = {"id": 77, "command": "eval", "payload": {"expression": "6 * 7"}}
    session.write(b'{"segments":{"free":["x"]}}\n' + json.dumps(ask).encode() + b"\n")
    assert session.reply() == {"id": 77, "result": {"value": 42}}


def test_limits_are_named(start: Any) -> None:
    """`arrayBytes` and `memoryBytes` bound what is shared, `resultBytes` does not; too many segments are refused."""
    small = Borrowed(start(arrayBytes=LARGE, resultBytes=4000))
    small.get(doubles(small.session, 1000))
    with pytest.raises(LimitExceeded, match=f"takes {8 * LARGE} bytes: arrayBytes is {LARGE}"):
        small.get(doubles(small.session, LARGE))
    tight = Borrowed(start(memoryBytes=64 << 20))
    handle = doubles(tight.session, LARGE)
    with pytest.raises(LimitExceeded, match="memoryBytes is 67108864"):
        for _ in range(9):
            tight.get(handle, shm=True)
    assert tight.session.eval("1 + 1") == 2


def test_there_are_only_so_many_segments(borrowed: Borrowed) -> None:
    """Who keeps all segments is told so, and may go on with attachments."""
    handle = doubles(borrowed.session, 20_000)
    with pytest.raises(LimitExceeded, match="64 arrays in shared memory"):
        for _ in range(65):
            borrowed.get(handle, shm=True)
    result, data = borrowed.get(handle)
    assert "segment" not in result
    assert len(data) == 160_000


def test_a_request_must_be_whole(borrowed: Borrowed) -> None:
    """Fields of the wrong type are named."""
    for payload, says in (
        ({"shape": [1]}, "dtype"),
        ({"dtype": "<f8", "shape": "1"}, "array of whole numbers"),
        ({"dtype": "<f8", "shape": [1.5]}, "array of whole numbers"),
        ({"dtype": "|O", "shape": [1]}, "objects cannot travel"),
        ({"dtype": "<f8", "shape": [1], "segment": "seg-other"}, "not lent to this connection"),
        ({"dtype": "<f8", "shape": [1]}, "one attachment"),
    ):
        with pytest.raises(InvalidRequest, match=says):
            borrowed.ask("array.put", payload)
