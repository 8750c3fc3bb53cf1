"""Fuzzing of what clients send to a pipe server, and of what they read from it."""

from __future__ import annotations

import json
from typing import Any

from harness.fuzzing import choose, cuts, damaged, fuzz, json_texts, objects, outcome, streams
from hypothesis import strategies as st

from venvd._net.lines import LineReader
from venvd.errors import BadReply
from venvd_contract import framing
from venvd_contract.errors import InvalidRequest, TooLarge, Unauthenticated, VenvdError
from venvd_pipe_backend.messages import MAX_ID, Gate, MalformedError, Message, Reader

MAX_LINE, MAX_ATTACHMENTS, GATE = 4096, 8192, 1024
TOKEN = "vd_right"
MARK = b"\xef\xbb\xbf"

requests = objects(
    {
        "id": choose(0, 7, "a", None, "x" * (MAX_ID + 1), -1.5),
        "command": choose("eval", "ping", "array.put", "session.attach", ""),
        "payload": choose({}, {"expression": "1"}, None, {"token": "no", "x": "\u2028"}) | json_texts,
        "attachments": choose(
            [], [0], [1], [3, 4], [MAX_ATTACHMENTS], [MAX_ATTACHMENTS + 1], [-1], None, [1 << 62], [0] * 65
        ),
        "token": choose(TOKEN, "wrong", None),
        "session": choose("s", None),
        "timeout": choose(1, 2.5, None),
        "stream": choose(True, False),
        "values": choose("plain", "typed"),
    }
)
pipe_streams = damaged(streams(damaged(requests, 4)), 6) | st.tuples(
    st.just(b'{"payload":"' + b"x" * 1500), streams(requests)
).map(b"".join)


def read_all(pieces: list[bytes], *, gated: bool = False, mark: bytes = b"") -> list[Any]:
    """Read as a connection does: each request with its attachments, or the error of one; ends where that is fatal."""
    reader = Reader(MAX_LINE, MAX_ATTACHMENTS, mark)
    if gated:
        reader.gate = Gate(GATE, check)
    seen: list[Any] = []
    for piece in pieces:
        message = reader.alone(piece)
        if message is not None:
            seen.append(describe(message, reader))
            continue
        reader.feed(piece)
        if not drain(reader, seen):
            return seen
        assert reader.held <= MAX_LINE + MAX_ATTACHMENTS + len(piece)
    ended = reader.midway
    if ended:
        try:
            reader.end()
        except MalformedError as wrong:
            return [*seen, note(wrong)]
        drain(reader, seen)
    return seen


def drain(reader: Reader, seen: list[Any]) -> bool:
    """Read what is whole; whether more can follow."""
    while True:
        try:
            message = reader.next()
        except MalformedError as wrong:
            seen.append(note(wrong))
            if wrong.fatal:
                return False
            continue
        if message is None:
            return True
        if message.command == "array.put" and reader.behind is not None:
            seen.append(("array", reader.behind))
            return False  # the connection reads what follows as bytes of the array
        seen.append(describe(message, reader))


def describe(message: Message, reader: Reader) -> Any:
    assert reader.size <= MAX_LINE + MAX_ATTACHMENTS + 2
    payload, tag = bytes(message.payload), bytes(message.tag)
    assert payload not in {b"", b"null"}
    assert b"\n" not in payload + tag, "it would begin another line to the session or to the client"
    assert len(tag) <= MAX_ID
    assert not tag or isinstance(json.loads(tag), str | int | float)
    return message.command, tag, payload, message.attachments or None, message.timeout, message.token


def note(wrong: MalformedError) -> Any:
    assert isinstance(wrong.error, InvalidRequest | TooLarge | Unauthenticated)
    assert wrong.error.message
    return type(wrong.error).__name__, wrong.id, wrong.fatal


def check(token: str | None) -> None:
    if token != TOKEN:
        raise Unauthenticated("wrong")


@fuzz(pipe_streams)
def test_pipe_requests(data: bytes) -> None:
    """Any bytes become requests and documented errors, the same ones wherever the bytes are cut."""
    first, *others = (read_all(pieces) for pieces in cuts(data))
    assert all(other == first for other in others)


@fuzz(st.tuples(st.sampled_from([b"", MARK, b"\n"]), pipe_streams).map(b"".join))
def test_pipe_byte_order_mark(data: bytes) -> None:
    """A mark counts in front of the first line alone, wherever the bytes are cut."""
    first, *others = (read_all(pieces, mark=MARK) for pieces in cuts(data))
    assert all(other == first for other in others)
    assert data.startswith(MARK) or first == read_all([data])


@fuzz(pipe_streams)
def test_pipe_without_a_token(data: bytes) -> None:
    """A client that has shown no token makes the server hold a few bytes, and learns no more than with one."""
    reader = Reader(MAX_LINE, MAX_ATTACHMENTS)
    reader.gate = Gate(GATE, check)
    seen: list[Any] = []
    for at in range(0, len(data), 100):
        reader.feed(data[at : at + 100])
        if not drain(reader, seen):
            break
        assert reader.gate is None or reader.held <= GATE + 100
    allowed = read_all([data])
    if reader.gate is not None and not any(entry[0] == "TooLarge" or entry[0] == "Unauthenticated" for entry in seen):
        assert seen == allowed[: len(seen)]


replies = objects(
    {
        "id": choose(1, "a"),
        "result": json_texts,
        "error": choose("wrong", ""),
        "event": choose("stdout", None),
        "data": json_texts,
        "attachments": choose([], [0], [5], [-1], [1 << 31], [1 << 62], "a", None),
    }
)


def read_reply(pieces: list[bytes]) -> Any:
    """Read as a client does, up to the first reply."""
    reader = LineReader()

    def read() -> None:
        for piece in pieces:
            if reader.done:
                return
            reader.feed(piece)

    kind, said = outcome(read, BadReply)
    return kind, said, reader.done, reader.reply, list(reader.events_seen), reader.attachments


@fuzz(damaged(streams(replies), 4))
def test_pipe_replies(data: bytes) -> None:
    """A client ends with a reply or with `BadReply`, the same one wherever the bytes are cut."""
    first, *others = (read_reply(pieces) for pieces in cuts(data))
    assert all(repr(other) == repr(first) for other in others)


@fuzz(damaged(streams(json_texts, 1), 4))
def test_lines(data: bytes) -> None:
    """The two parsers of a line agree, and what they return can be written and read again."""
    line = data.partition(b"\n")[0]
    slow = outcome(lambda: framing.parse_line(line), InvalidRequest, TooLarge)
    fast = outcome(lambda: framing.parse_whole(line + b"\n"), InvalidRequest, TooLarge)
    assert repr(slow) == repr(fast)
    if slow[0] == "value":
        try:
            written = framing.dump_line(slow[1])
        except (ValueError, RecursionError):
            return  # lone surrogates and infinite numbers have no form on the wire
        assert written.count(b"\n") == 1
        assert repr(framing.parse_line(written[:-1])) == repr(slow[1])


@fuzz(json_texts)
def test_attachment_sizes(data: bytes) -> None:
    """A list of sizes is returned only within the bounds on their number and their sum."""
    kind, value = outcome(lambda: json.loads(data), ValueError, RecursionError)
    if kind != "value":
        return
    kind, sizes = outcome(lambda: framing.attachment_sizes(value), VenvdError)
    if kind == "value":
        assert len(sizes) <= framing.MAX_ATTACHMENTS
        assert sum(sizes) <= framing.MAX_ATTACHMENT_BYTES
        assert all(size >= 0 for size in sizes)
