"""Arrays over the pipe: taken and given in parts, shared by descriptor, in the order of replies."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from .conftest import Client, Server, Start, until  # type: ignore[import-not-found]

F_GET_SEALS = 1034
SHRINK, GROW = 2, 4
LARGE = 1 << 20


def held(client: Client, count: int, value: int = 7) -> str:
    """The handle of an array of `count` doubles."""
    code = f"__import__('array').array('d', [{value}]) * {count}"
    return str(client("eval", {"expression": code})["result"]["handleId"])


def expected(count: int, value: int = 7) -> bytes:
    import array

    return (array.array("d", [value]) * count).tobytes()


def behind(client: Client, reply: dict[str, Any]) -> bytes:
    return b"".join(client.lines.read(size) for size in reply["attachments"])


def shared(client: Client, payload: dict[str, Any], command: str = "array.get") -> tuple[dict[str, Any], list[int]]:
    """The reply to a request with `shm`, and the descriptors that came with it."""
    client.send(command, {**payload, "shm": True})
    data, descriptors = b"", []
    while not data.endswith(b"\n"):
        more, received, _, _ = socket.recv_fds(client.socket, 1 << 16, 4)
        assert more, "the server closed the connection"
        data += more
        descriptors += received
    return json.loads(data), descriptors


def resident(server: Server) -> int:
    """Bytes of memory of the server's own: what it maps of others is not counted."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon:")) * 1024


@pytest.mark.slow
def test_an_array_comes_behind_its_line(server: Server) -> None:
    """The reply describes the array, and its bytes follow; what was sent meanwhile is answered after that."""
    client = server.connect()
    handle = held(client, 2 * LARGE)
    client.send("array.get", {"handleId": handle})
    client.send("ping")
    reply = client.receive()
    assert reply["result"] == {"dtype": "<f8", "shape": [2 * LARGE], "order": "C"}
    assert behind(client, reply) == expected(2 * LARGE)
    assert client.receive() == {"result": {"status": "ok"}}


@pytest.mark.slow
def test_replies_keep_their_order_and_stay_whole(server: Server) -> None:
    """Without IDs an array waits for the replies before it; with IDs nothing is written into the midst of one."""
    client = server.connect()
    handle = held(client, LARGE)
    client.send("exec", {"code": "import time; time.sleep(0.2)"})
    client.send("array.get", {"handleId": handle})
    assert "stdout" in client.receive()["result"]
    assert behind(client, client.receive()) == expected(LARGE)
    for number in range(8):
        client.send("array.get" if number % 2 else "ping", {"handleId": handle}, id=number)
    left = set(range(8))
    while left:
        reply = client.receive()
        left.remove(reply["id"])
        if reply["id"] % 2:
            assert behind(client, reply) == expected(LARGE)


@pytest.mark.slow
def test_a_client_that_reads_slowly_gets_all_of_it_in_bounded_memory(server: Server) -> None:
    """300 MB go to a client that reads with pauses, and the server keeps a few of them at a time."""
    client = server.connect()
    handle = held(client, 300_000_000 // 8)
    before = resident(server)
    most = 0
    client.send("array.get", {"handleId": handle})
    assert client.receive()["attachments"] == [300_000_000]
    total = 0
    while total < 300_000_000:
        total += len(client.lines.read(10_000_000))
        most = max(most, resident(server) - before)
    assert most < 32 << 20
    assert client("ping") == {"result": {"status": "ok"}}
    client("dispose", {"handleId": handle})


@pytest.mark.slow
def test_an_array_that_is_lost_midway_ends_the_connection(server: Server) -> None:
    """A session that ends while its array is read: the bytes break off, with no error among them."""
    client, other = server.connect(), server.connect()
    client.send("array.get", {"handleId": held(client, 2 * LARGE)})
    reply = client.receive()
    other("session.reset", {"id": "default"})
    came = client.rest()
    assert len(came) < reply["attachments"][0]
    assert expected(2 * LARGE).startswith(came)
    assert other("eval", {"expression": "6 * 7"}) == {"result": {"value": 42}}


def test_an_array_whose_session_ends_while_it_comes_in_is_told(server: Server) -> None:
    """What still comes is dropped, and the connection goes on."""
    client, other = server.connect(), server.connect()
    before = other("session.get", {"id": "default"})["result"]["calls"]
    line = {"command": "array.put", "payload": {"dtype": "|u1", "shape": [LARGE]}, "attachments": [LARGE]}
    client.raw(json.dumps(line).encode() + b"\n" + bytes(LARGE // 2))
    until(lambda: other("session.get", {"id": "default"})["result"]["calls"] > before, "no memory is asked for")
    other("session.reset", {"id": "default"})
    client.raw(bytes(LARGE // 2))
    reply = client.receive()
    assert (reply["code"], reply["stateLost"]) == ("session_lost", True)
    assert client("eval", {"expression": "6 * 7"}) == {"result": {"value": 42}}


def test_an_array_that_comes_in_slowly_delays_no_other(server: Server) -> None:
    """While the bytes of an `array.put` are missing, others use the session; whole, it is an array."""
    slow, other = server.connect(), server.connect()
    line = {"command": "array.put", "payload": {"dtype": "|u1", "shape": [100_000]}, "attachments": [100_000]}
    slow.raw(json.dumps(line).encode() + b"\n" + bytes(50_000))
    assert other("eval", {"expression": "6 * 7"}) == {"result": {"value": 42}}
    slow.raw(bytes(50_000))
    handle = slow.receive()["result"]["handleId"]
    reply = slow("array.get", {"handleId": handle})
    assert (reply["result"]["dtype"], behind(slow, reply)) == ("|u1", bytes(100_000))
    assert slow("eval", {"expression": "1 + 1"}) == {"result": {"value": 2}}


@pytest.mark.slow
def test_a_large_array_comes_in_in_bounded_memory(start: Start) -> None:
    """300 MB, more than an attachment may have, are taken, and the server keeps a few of them at a time."""
    with start(worker=True, VENVD_MAX_ATTACHMENT_BYTES="1000000") as server:
        client = server.connect()
        line = {"command": "array.put", "payload": {"dtype": "<f8", "shape": [300, 125_000]}}
        client.raw(json.dumps({**line, "attachments": [300_000_000]}).encode() + b"\n")
        before, most = resident(server), 0
        for _ in range(300):
            client.raw(b"\0\0\0\0\0\0\xf0\x3f" * 125_000)
            most = max(most, resident(server) - before)
        handle = client.receive()["result"]["handleId"]
        assert most < 32 << 20
        code = {"expression": "float(x.sum())", "locals": {"x": {"$handle": handle}}}
        assert client("eval", code) == {"result": {"value": 37_500_000.0}}


@pytest.mark.parametrize(
    ("payload", "size", "code"),
    [
        ({"dtype": "<f8", "shape": [2]}, 8, "invalid_request"),
        ({"dtype": "|O", "shape": [1]}, 8, "invalid_request"),
        ({"dtype": "<f8", "shape": [1 << 40]}, 8, "invalid_request"),
        ({"dtype": "<f8", "shape": "x"}, 100_000, "invalid_request"),
        ({}, 3_000_000, "invalid_request"),
    ],
)
def test_a_wrong_description_is_refused_and_its_bytes_are_skipped(
    server: Server, payload: Any, size: int, code: str
) -> None:
    """The error names what is wrong, and the next line is found behind the bytes."""
    client = server.connect()
    client.raw(json.dumps({"command": "array.put", "payload": payload, "attachments": [size]}).encode() + b"\n")
    client.raw(bytes(size))
    assert client.receive()["code"] == code
    assert client("ping") == {"result": {"status": "ok"}}


def test_what_is_too_much_to_skip_ends_the_connection(server: Server) -> None:
    """An announcement of terabytes is refused at once, and nothing further is read as a request."""
    client = server.connect()
    client.raw(b'{"command":"array.put","payload":{"dtype":"<f8","shape":[1]},"attachments":[9999999999999]}\n')
    assert "there are 9999999999999" in client.receive()["error"]
    assert client.closed()


def test_an_array_that_ends_early_is_told(server: Server) -> None:
    """A client that sends less than it announced, and then nothing, is told how much came."""
    client = server.connect()
    client.raw(b'{"command":"array.put","payload":{"dtype":"|u1","shape":[9]},"attachments":[9]}\nabcd')
    client.socket.shutdown(socket.SHUT_WR)
    assert "ended after 4 of the 9 bytes" in client.receive()["error"]
    assert client.closed()


@pytest.mark.slow
def test_an_array_that_stops_coming_is_given_up(start: Start) -> None:
    """A client that begins an array and sends no more of it is told so, and let go."""
    with start(worker=True, VENVD_STALL_TIMEOUT="1") as server:
        client = server.connect()
        client.raw(b'{"command":"array.put","payload":{"dtype":"|u1","shape":[9]},"attachments":[9]}\nabcd')
        assert "the rest of a request did not arrive" in client.receive()["error"]
        assert client.closed()


@pytest.mark.slow
def test_shared_memory_comes_once_and_is_used_again(start: Start) -> None:
    """The first reply that names a segment brings a sealed descriptor; once released, the same segment comes again."""
    with start(worker=True) as server:
        client = server.connect()
        handle = held(client, LARGE)
        reply, (descriptor,) = shared(client, {"handleId": handle})
        result = reply["result"]
        assert reply["descriptors"] == 1
        assert fcntl.fcntl(descriptor, F_GET_SEALS) & (SHRINK | GROW) == SHRINK | GROW
        with mmap.mmap(descriptor, result["size"]) as mapped:
            os.close(descriptor)
            assert mapped[: 8 * LARGE] == expected(LARGE)
            other = held(client, LARGE, 9)
            again, none = shared(client, {"handleId": other, "release": [result["segment"]]})
            assert again["result"]["segment"] == result["segment"]
            assert not none
            assert "descriptors" not in again
            assert mapped[: 8 * LARGE] == expected(LARGE, 9)
        assert client("array.release", {"segments": [result["segment"]]}) == {"result": {"success": True}}


@pytest.mark.slow
def test_what_one_client_maps_no_other_gets(server: Server) -> None:
    """A lent segment is not used for others, nor released by them; that of a client that went is never used again."""
    client, other = server.connect(), server.connect()
    handle = held(client, LARGE)
    first, (mine,) = shared(client, {"handleId": handle})
    name = first["result"]["segment"]
    other("array.release", {"segments": [name]})
    second, (its,) = shared(other, {"handleId": held(client, LARGE, 9)})
    assert second["result"]["segment"] != name
    client.close()
    third = server.connect()
    seen = {name}
    for _ in range(3):
        reply, descriptors = shared(third, {"handleId": held(third, LARGE, 11)})
        seen.add(reply["result"]["segment"])
        for descriptor in descriptors:
            os.close(descriptor)
    assert len(seen) == 4
    with mmap.mmap(mine, first["result"]["size"]) as mapped:
        assert mapped[: 8 * LARGE] == expected(LARGE)
    os.close(mine)
    os.close(its)


@pytest.mark.parametrize("name", [{"id": "fetch"}, {"id": 5}, {"id": 7, "call": "fetch"}])
def test_a_fetch_can_be_cancelled(server: Server, name: dict[str, Any]) -> None:
    """`cancel` ends a fetch by the ID of its request, or by the name that the client gave it, like any other call."""
    client = server.connect()
    handle = held(client, LARGE)
    blocker = server.connect()
    blocker.send("exec", {"code": "import time; time.sleep(60)"}, id=1)
    client.send("array.get", {"handleId": handle}, **name)
    client.send("cancel", {"id": name.get("call", name["id"])}, id="cancel")
    replies = {reply["id"]: reply for reply in (client.receive(), client.receive())}
    assert replies["cancel"]["result"] == {"success": True}
    assert replies[name["id"]]["code"] == "cancelled"
    blocker.send("cancel", {"id": 1}, id=2)
    assert {blocker.receive()["id"], blocker.receive()["id"]} == {1, 2}


def test_small_arrays_are_not_shared(server: Server) -> None:
    """An array that is not worth a segment comes as an attachment, also where it could be shared."""
    client = server.connect()
    reply = client("array.get", {"handleId": held(client, 10), "shm": True})
    assert behind(client, reply) == expected(10)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"dtype": "<f8", "shape": [1]}, "one attachment"),
        ({"dtype": "<f8", "shape": [1], "segment": "seg-0"}, "no segment"),
        ({"dtype": "<f8", "shape": [1 << 40], "shm": True}, "arrayBytes"),
        ({"dtype": "<f8", "shape": [1], "shm": 1}, "true or false"),
    ],
)
def test_what_cannot_be_put_is_refused(server: Server, payload: Any, says: str) -> None:
    """Each way to ask wrongly has its sentence."""
    assert says in server.connect()("array.put", payload)["error"]


@pytest.mark.slow
def test_clients_that_go_leave_nothing(server: Server) -> None:
    """Clients that vanish in the midst of an array, or with memory mapped, leave no descriptor and no call behind."""
    client = server.connect()
    handle = held(client, 4 * LARGE)
    before = server.descriptors()
    for number in range(6):
        goes = server.connect()
        if number % 3 == 0:
            goes.send("array.get", {"handleId": handle})
            goes.receive()
        elif number % 3 == 1:
            _, descriptors = shared(goes, {"handleId": handle})
            for descriptor in descriptors:
                os.close(descriptor)
        else:
            goes.raw(b'{"command":"array.put","payload":{"dtype":"|u1","shape":[99]},"attachments":[99]}\nabcd')
        goes.close()
    # each idle segment is a descriptor and a mapping, and they stay for a while
    until(lambda: server.descriptors() <= before + 8, "descriptors are left")
    assert client("eval", {"expression": "1 + 1"}) == {"result": {"value": 2}}
