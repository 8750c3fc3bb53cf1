"""Fuzzing of what a client reads: HTTP responses and server-sent events, from a server that may be hostile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness.fuzzing import cuts, damaged, fuzz, json_texts, outcome
from hypothesis import strategies as st

from venvd._net.bulk import BulkReader
from venvd._net.http1 import MAX_HEAD, ResponseReader
from venvd._net.sse import EventParser
from venvd.errors import BadReply, Unavailable

MAX_BODY = 4096
LARGEST_ALLOCATION = 1 << 20

status_lines = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 204 No",
        b"HTTP/2 200",
        b"HTTP/1.1 2",
        b"HTTP/1.1 2000",
        b"HTTP/1.1x200",
        b"HTTP/1.1 099 x",
        b"HTTP/1.1 500 ",
        b"",
        b"x" * 40,
    ]
)
fields = st.sampled_from(
    [b"Content-Length: %d" % size for size in (0, 1, 5, MAX_BODY, MAX_BODY + 1)]
    + [b"content-length: 5", b"Content-Length: +5", b"Content-Length: 0x5", b"Content-Length: 5, 5", b"Content-Length:"]
    + [b"Content-Length: " + b"9" * 30, b"Content-Length: 1f", b"Content-Length : 5", b"Content-Length: 1_0"]
    + [b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked, chunked"]
    + [b"Connection: close", b"X: " + b"y" * 300, b"no colon", b" folded", b": empty", b"X:\x00"]
)
chunks = st.lists(
    st.sampled_from([b"1\r\na\r\n", b"5\r\nabcde\r\n", b"5;x=y\r\nabcde\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n"])
    | st.sampled_from([b"5\r\nabcdefgh\r\n", b"-1\r\n", b"ffffffffffffffff\r\n", b"\r\n", b"5\nabcde\n", b"5\r\nabc"]),
    max_size=6,
).map(b"".join)
heads = st.tuples(status_lines, st.lists(fields, max_size=4)).map(
    lambda parts: b"\r\n".join([parts[0], *parts[1], b"", b""])
)
responses = st.lists(st.tuples(heads, chunks | st.binary(max_size=20)).map(b"".join), max_size=3).map(b"".join)


def read_response(pieces: list[bytes]) -> Any:
    """Read one response until it is done or the peer closes."""
    reader = ResponseReader(MAX_BODY)
    try:
        for piece in pieces:
            if not reader.done:
                reader.feed(piece)
                assert len(reader.body) <= MAX_BODY
                assert len(reader._buffer) <= MAX_HEAD + len(piece)
        if not reader.done:
            reader.eof()
    except (BadReply, Unavailable) as error:
        return type(error).__name__
    assert reader.has_head
    return reader.status, reader.headers, bytes(reader.body), reader.done


@fuzz(damaged(responses, 3))
def test_http_responses(data: bytes) -> None:
    """Any bytes become a response within the bounds or a documented error, the same wherever they are cut."""
    first, *others = (read_response(pieces) for pieces in cuts(data))
    assert all(other == first for other in others)


@fuzz(damaged(responses, 3))
def test_http_bulk_responses(data: bytes) -> None:
    """A response that is read into its own memory is the same as one that is not, and allocates what it announces."""

    def allocate(size: int) -> memoryview:
        if size > LARGEST_ALLOCATION:
            raise MemoryError
        return memoryview(bytearray(size))

    def read(pieces: list[bytes]) -> Any:
        reader = BulkReader(allocate)
        try:
            for piece in pieces:
                if not reader.done:
                    reader.feed(piece)
            if not reader.done:
                reader.eof()
        except (BadReply, Unavailable) as error:
            return type(error).__name__
        return reader.status, reader.headers, bytes(reader.whole())

    first, *others = (read(pieces) for pieces in cuts(data))
    assert all(other == first for other in others)
    plain = read_response([data] if data else [])
    if isinstance(plain, tuple) and isinstance(first, tuple):
        assert plain[:3] == first


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 2\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0;" + b"x" * MAX_HEAD + b"\r\n\r\n",
    ],
    ids=["short-status", "long-status", "two-lengths", "large-head", "long-chunk-line"],
)
def test_responses_that_are_none(data: bytes) -> None:
    """A response that breaks the protocol is refused, in one piece as in several."""
    assert {read_response(pieces) for pieces in cuts(data)} == {"BadReply"}


event_lines = st.sampled_from(
    [
        b"data: a",
        b"data:a",
        b"data",
        b"data:",
        b"event: stdout",
        b"event",
        b"id: 7",
        b"id",
        b": comment",
        b"retry: 5",
        b"",
    ]
) | json_texts.map(lambda text: b"data: " + text)
event_streams = st.lists(
    st.tuples(event_lines, st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b"\r"])).map(b"".join), max_size=8
).map(b"".join)


@fuzz(damaged(event_streams, 3))
def test_server_sent_events(data: bytes) -> None:
    """Any bytes become the same events wherever they are cut, and no data of an event hold more than came."""

    def read(pieces: list[bytes]) -> Any:
        parser = EventParser()
        return [event for piece in pieces for event in parser.feed(piece)]

    first, *others = (read(pieces) for pieces in cuts(data))
    assert all(other == first for other in others)
    assert sum(len(event.data) for event in first) <= len(data)


@fuzz(
    st.lists(st.tuples(st.sampled_from(["stdout", "done"]), st.text(max_size=20)), max_size=4).map(
        lambda e: json.dumps(e).encode()
    )
)
def test_server_sent_events_round_trip(data: bytes) -> None:
    """Events that a server writes are those that a client reads."""
    kind, events = outcome(lambda: json.loads(data), ValueError)
    if kind != "value":
        return
    written = b"".join(f"event: {name}\ndata: {json.dumps(text)}\n\n".encode() for name, text in events)
    for pieces in cuts(written):
        parser = EventParser()
        read = [event for piece in pieces for event in parser.feed(piece)]
        assert [(event.name, json.loads(event.data)) for event in read] == [tuple(event) for event in events]


def test_events_of_empty_lines_are_bounded() -> None:
    """An event of nothing but empty lines of data counts towards the bound on one event."""
    parser = EventParser(100_000)
    kind, said = outcome(lambda: [parser.feed(b"data\n" * 100) for _ in range(1000)], BadReply)
    assert kind == "BadReply", said
