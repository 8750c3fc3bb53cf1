"""Fuzzing of what comes from the worker host, where user code runs: lines, packets, segments and file transfers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
from harness.fuzzing import choose, cuts, damaged, fuzz, json_texts, objects, outcome, streams
from hypothesis import strategies as st

from venvd_contract.errors import Conflict, Internal, Unavailable, VenvdError
from venvd_contract.internal import messages
from venvd_contract.internal.control import LARGEST_PACKET
from venvd_contract.internal.file_transfer import ERROR, HEAD, LARGEST_ANSWER, RESULT
from venvd_contract.internal.messages import GetStats
from venvd_contract.internal.segments import MOST_SEGMENTS
from venvd_core.file_transfer import PIECE, FileProcess
from venvd_core.link import Link
from venvd_core.segments import Segments
from venvd_core.session.stream import Stream
from venvd_core.wire import SessionLine, check_payload, copy_data, error_of, parse_line
from venvd_worker.common.control import ControlConnection, InvalidPacket, TruncatedPacket

MAX_LINE = 1 << 20
FRAMES = st.lists(st.binary(max_size=60), max_size=6)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine on a loop of its own; an exception that the loop swallowed fails as well."""
    failed: list[Any] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failed.append(context))
        async with asyncio.timeout(30):
            await work()

    asyncio.run(watched())
    assert not failed


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def frame(packets: list[bytes]) -> bytes:
    """Packets as one text of bytes: each behind its length."""
    return b"".join(len(packet).to_bytes(3, "big") + packet for packet in packets)


def unframe(data: bytes) -> list[bytes]:
    packets = []
    while len(data) >= 3:
        size = int.from_bytes(data[:3], "big")
        packets.append(data[3 : 3 + size])
        data = data[3 + size :]
    return packets


# ---- lines of a session

lines = objects(
    {
        "id": choose(1, 2, None),
        "result": json_texts,
        "attachments": choose([], [0], [5, 1], [-1], [MAX_LINE], [MAX_LINE + 1], [0] * 65, None, [1 << 70]),
        "error": choose("wrong", "x" * 100, 5),
        "code": choose("user_error", "unauthenticated", "internal", "cancelled", None, 7),
        "errorType": json_texts,
        "traceback": json_texts,
        "event": choose("stdout", "display", "other", 5),
        "data": json_texts,
    }
)


def read_session(pieces: list[bytes]) -> list[Any]:
    seen: list[Any] = []

    def take(line: SessionLine, attachments: Any) -> None:
        copied = [None if line.id is None else int(line.id), bytes(line.result), bytes(line.data), list(attachments)]
        seen.append((*copied, bytes(line.event), error_of(line).fields() if line.error else None))
        assert json.loads(copied[2]) is None or copied[2]
        assert sum(map(len, attachments)) <= MAX_LINE

    stream = Stream(take, lambda why: seen.append(why.partition("(")[0]), MAX_LINE)
    for piece in pieces:
        stream.data_received(piece)
        assert len(stream._buffer) <= 2 * MAX_LINE
    return seen


@fuzz(damaged(streams(damaged(lines, 4)), 6))
def test_session_lines(data: bytes) -> None:
    """A session's bytes become lines and at most one reason to end it, the same ones wherever they are cut."""
    first, *others = (read_session(pieces) for pieces in cuts(data))
    assert all(other == first for other in others)
    assert not any(isinstance(entry, str) for entry in first[:-1])


@fuzz(damaged(lines, 4))
def test_session_line_is_whole_json(data: bytes) -> None:
    """Whatever of a line is passed on to clients unparsed is JSON in UTF-8, in one line."""
    line = data.replace(b"\n", b"")
    kind, parsed = outcome(lambda: parse_line(line), Exception)
    if kind != "value":
        assert kind == "GarbledError"
        return
    for part in (bytes(parsed.result), copy_data("display", parsed.data)):
        if part:
            assert (
                outcome(lambda part=part: json.loads(part), RecursionError, ValueError)[0] == "value"
                or b"9" * 400 in part
            )
    if parsed.error:
        kind, error = outcome(lambda: error_of(parsed), Exception)
        assert kind == "GarbledError" or isinstance(error, VenvdError)


@fuzz(json_texts)
def test_payloads(data: bytes) -> None:
    """A payload that is let through to a session is one object in one line; others get an error."""
    kind, checked = outcome(lambda: check_payload(data), VenvdError)
    if kind == "value":
        assert b"\n" not in checked
        assert checked.lstrip()[:1] == b"{"


# ---- packets

packets = objects(
    {
        "id": choose(1, 2, None, 1 << 70),
        "result": json_texts | choose({}),
        "error": choose("wrong", None),
        "code": choose("not_found", "nothing", None),
        "event": choose(*messages.EVENTS, "other", None),
        "data": json_texts
        | choose(
            {"session": "s", "pid": 3},
            {"session": "s", "connection": 2, "why": "x"},
            {"session": "s", "exitCode": None, "signal": 11},
            {"state": "ready", "preload": [{"module": "m", "seconds": 1.5}]},
            {"session": 5},
        ),
    }
)


@fuzz(st.lists(damaged(packets, 3), max_size=5).map(frame), share=0.5)
def test_control_packets_to_the_server(data: bytes) -> None:
    """Packets of a warden answer a request, become events, or end the connection with a reason."""

    async def exchange() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        events: list[Any] = []
        reasons: list[str] = []
        link = Link(ours, asyncio.get_running_loop(), events.append, reasons.append)
        request = asyncio.ensure_future(link.request(GetStats()))
        await asyncio.sleep(0)
        for packet in unframe(data):
            if packet and not reasons:
                theirs.send(packet)
        theirs.close()
        await link.gone
        assert reasons == [link.gone.result()]
        assert all(isinstance(event, messages.Exited | messages.Refused | messages.Up) for event in events)
        kind, value = "value", None
        try:
            value = await request
        except VenvdError as error:
            kind = type(error).__name__
        assert kind != "value" or outcome(lambda: msgspec.json.decode(value), msgspec.MsgspecError, RecursionError)

    run(exchange)


@fuzz(st.lists(damaged(packets, 3) | json_texts, max_size=5).map(frame))
def test_control_packets_to_the_warden(data: bytes) -> None:
    """Packets become objects, or `InvalidPacket`; each closes the descriptors that it does not hand on."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection = ControlConnection(ours)
    before = count_descriptors()
    with theirs:
        for packet in unframe(data):
            if not packet:
                continue
            socket.send_fds(theirs, [packet[:LARGEST_PACKET]], [0])
            kind, received = outcome(connection.receive, InvalidPacket, TruncatedPacket)
            if kind == "value":
                assert type(received.message) is dict
                os.close(received.descriptors[0])
            assert count_descriptors() == before
    connection.close()


@fuzz(
    st.tuples(st.sampled_from(sorted(messages.COMMANDS)), json_texts).map(
        lambda pair: pair[0].encode() + b" " + pair[1]
    )
)
def test_control_commands(data: bytes) -> None:
    """The data of a command become its message with non-negative numbers, or an error that names the command."""
    name, _, text = data.partition(b" ")
    kind, value = outcome(lambda: json.loads(text), ValueError, RecursionError)
    if kind == "value" and name.decode() in messages.COMMANDS:
        command = messages.COMMANDS[name.decode()]
        kind, message = outcome(lambda: messages.parse(command, value), VenvdError)
        assert isinstance(message, command) if kind == "value" else name.decode() in message


# ---- segments

wants = objects(
    {
        "want": choose(0, 1, -1, 4096, 1 << 20, (1 << 20) + 1, 1 << 62, 1 << 63, 1 << 70, None, True, 1.5),
        "gone": choose([], ["seg-x"], None, "seg", [5]),
    }
)


@fuzz(st.lists(damaged(wants, 5), max_size=6).map(frame), share=0.5)
def test_segment_requests(data: bytes) -> None:
    """A session gets segments within its bounds and errors; anything else ends it with a reason."""

    async def exchange() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        reasons: list[str] = []
        most = 1 << 20
        segments = Segments(ours, most, lambda _line: None, reasons.append)
        held = 0
        for packet in unframe(data):
            if not packet or reasons:
                continue
            theirs.send(packet)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            try:
                answer, descriptors, _, _ = socket.recv_fds(theirs, LARGEST_PACKET, 4)
            except BlockingIOError:
                continue
            if not answer:
                break
            fields = json.loads(answer)
            assert ("error" in fields) == (not descriptors)
            for descriptor in descriptors:
                held += fields["size"]
                assert os.fstat(descriptor).st_size == fields["size"]
                os.close(descriptor)
            assert held <= most
            assert len(segments._known) <= MOST_SEGMENTS
        assert len(reasons) <= 1
        segments.close()
        theirs.close()

    run(exchange)


# ---- file transfer

answers = st.tuples(
    st.sampled_from([RESULT, ERROR, b"d", b"z", b"\x00"]),
    st.sampled_from([None, 0, 1, LARGEST_ANSWER, LARGEST_ANSWER + 1, (1 << 32) - 1]),
    json_texts
    | objects({"error": choose("no", 5), "code": choose("not_found", "internal", "x"), "info": choose({})})
    | choose({"info": {}, "offset": 0, "length": 3}, {"info": {}, "offset": 0, "length": -1}),
).map(lambda parts: HEAD.pack(parts[0], len(parts[2]) if parts[1] is None else parts[1]) + parts[2])


class Owner:
    file_transfers = 0


@fuzz(damaged(st.tuples(answers, st.binary(max_size=20)).map(b"".join), 3), share=0.5)
def test_file_answers(data: bytes) -> None:
    """An answer of a file process is one JSON object in one line, or an error of the contract."""

    async def exchange() -> None:
        ours, theirs = socket.socketpair()
        theirs.sendall(data)
        theirs.close()
        owner = Owner()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=PIECE)
        process = FileProcess(reader, writer, owner)
        try:
            answer = bytes(await process.receive())
        except VenvdError as error:
            assert error.message  # noqa: PT017
        else:
            assert data[:1] == RESULT
            assert b"\n" not in answer
            assert type(json.loads(answer)) is dict
        finally:
            process.close()
        assert owner.file_transfers == 0

    run(exchange)


@fuzz(
    st.tuples(
        objects({"info": choose({}), "offset": json_texts, "length": choose(3, 0, -1)}), st.binary(max_size=9)
    ).map(lambda parts: HEAD.pack(RESULT, len(parts[0])) + parts[0] + parts[1]),
    share=0.5,
)
def test_file_pieces(data: bytes) -> None:
    """No more bytes are read behind the announcement of a file than it names, and its numbers are not negative."""

    async def exchange() -> None:
        ours, theirs = socket.socketpair()
        theirs.sendall(data)
        theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=PIECE)
        process = FileProcess(reader, writer, Owner())
        try:
            info = await process.receive_found()
            pieces = [piece async for piece in process.receive_pieces(info.length)]
        except VenvdError as error:
            assert isinstance(error, Internal | Conflict | Unavailable)  # noqa: PT017
        else:
            assert sum(map(len, pieces)) == info.length
        finally:
            process.close()

    run(exchange)
