"""The HTTP/1.1 client against peers that behave, break off, lie and fall silent; sync and async alike."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import venvd
from venvd._net.http1 import ResponseReader
from venvd._net.sse import EventParser


def reply(value: Any = 2, head: bytes = b"HTTP/1.1 200 OK", extra: bytes = b"") -> bytes:
    body = json.dumps({"value": value}).encode()
    return b"%s\r\nContent-Length: %d\r\n%s\r\n%s" % (head, len(body), extra, body)


def sync_eval(url: str, count: int = 1, timeout: float | None = None, pause: float = 0) -> list[Any]:
    def run(backend: venvd.Backend) -> Any:
        value = backend.eval("1 + 1")
        time.sleep(pause)
        return value

    with venvd.connect(url, timeout=timeout) as backend:
        return [run(backend) for _ in range(count)]


def async_eval(url: str, count: int = 1, timeout: float | None = None, pause: float = 0) -> list[Any]:
    async def run() -> list[Any]:
        results = []
        async with venvd.connect_async(url, timeout=timeout) as backend:
            for _ in range(count):
                results.append(await backend.eval("1 + 1"))
                await asyncio.sleep(pause)
        return results

    return asyncio.run(run())


@pytest.fixture(params=[sync_eval, async_eval], ids=["sync", "async"])
def evaluate(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    chosen: Callable[..., list[Any]] = request.param
    return chosen


def test_a_connection_is_kept(evaluate: Any, script: Any) -> None:
    """Three calls travel on one connection."""
    peer = script([reply(1), reply(2), reply(3)])
    assert evaluate(peer.url, 3) == [1, 2, 3]


def test_a_request_is_what_the_contract_says(evaluate: Any, script: Any) -> None:
    """Method, path, headers and body are those of the contract."""
    peer = script(reply())
    evaluate(peer.url, timeout=1.5)
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /api/eval HTTP/1.1"
    assert {"X-Venvd-Values: tagged", "X-Venvd-Timeout: 1.5", f"Content-Length: {len(body)}"} < set(lines)
    assert f"Host: {peer.url.removeprefix('http://')}" in lines
    assert json.loads(body) == {"expression": "1 + 1"}


@pytest.mark.slow
def test_an_answer_in_single_bytes(evaluate: Any, script: Any) -> None:
    """However the bytes are cut, the answer is the same."""
    whole = reply({"a": [1, 2]})
    assert evaluate(script(tuple(bytes([byte]) for byte in whole)).url) == [{"a": [1, 2]}]


def test_chunked_answers(evaluate: Any, script: Any) -> None:
    """Chunks with extensions and trailers are put together, and the connection is kept."""
    chunked = (
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6;a="b"\r\n{"valu\r\n'
        b'5\r\ne":7}\r\n0\r\nX-Trailer: 1\r\n\r\n'
    )
    assert evaluate(script([chunked, reply(8)]).url, 2) == [7, 8]


def test_an_answer_without_a_length_ends_with_the_connection(evaluate: Any, script: Any) -> None:
    """HTTP/1.0 style answers are read to the end, and the next call makes a connection."""
    assert evaluate(script(b'HTTP/1.0 200 OK\r\n\r\n{"value": 5}', reply(6)).url, 2) == [5, 6]


def test_interim_answers_are_skipped(evaluate: Any, script: Any) -> None:
    """A 1xx before the answer is no answer."""
    assert evaluate(script(b"HTTP/1.1 102 Processing\r\n\r\n" + reply(4)).url) == [4]


def test_connection_close_is_kept_to(evaluate: Any, script: Any) -> None:
    """Where the server says `Connection: close`, the next call makes a connection."""
    peer = script(reply(1, extra=b"Connection: close\r\n"), reply(2))
    assert evaluate(peer.url, 2) == [1, 2]


@pytest.mark.slow
def test_an_idle_connection_that_was_closed_is_replaced(evaluate: Any, script: Any) -> None:
    """A server that drops idle connections costs no error."""
    assert evaluate(script(reply(1), reply(2), reply(3)).url, 3, pause=0.2) == [1, 2, 3]


def test_a_call_that_may_have_run_is_not_sent_again(evaluate: Any, script: Any) -> None:
    """A reused connection that ends after the request was taken is an error for `eval`, and says so."""
    peer = script([reply(1), None], reply(2))
    with pytest.raises(venvd.Unavailable, match="may have run"):
        evaluate(peer.url, 2)
    assert len(peer.requests) == 2


def test_what_may_be_repeated_is(script: Any) -> None:
    """`module_available` is sent again on a new connection where the old one had ended."""
    available = b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"available": true}'
    with venvd.connect(script([available, None], available).url) as backend:
        assert backend.module_available("json")
        assert backend.module_available("json")


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n1234567890",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabcdef\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{x}",
        b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"isHandle":true}',
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    ],
)
def test_an_answer_that_breaks_the_protocol(evaluate: Any, script: Any, said: bytes) -> None:
    """A peer that speaks something else, lies about lengths or answers another shape is a `BadReply`."""
    with pytest.raises(venvd.BadReply):
        evaluate(script(said).url)


@pytest.mark.parametrize("said", [None, b"HTTP/1.1 200 OK\r\nContent-Le", reply()[:-3], "reset"])
def test_a_connection_that_is_cut(evaluate: Any, script: Any, said: Any) -> None:
    """An answer that is not whole is `Unavailable`."""
    with pytest.raises(venvd.Unavailable):
        evaluate(script(said).url)


def test_nothing_listens(evaluate: Any) -> None:
    """A refused connection is `Unreachable` and names the address."""
    with pytest.raises(venvd.Unreachable, match=r"127\.0\.0\.1:1"):
        evaluate("http://127.0.0.1:1")


@pytest.mark.parametrize(
    "url", ["ftp://x", "127.0.0.1:80", "http://", "http://a:b", "http://u@h", "unix://x/y", "http://h/?q"]
)
def test_what_is_no_address(url: str) -> None:
    """Each is refused before anything is sent."""
    with pytest.raises(venvd.InvalidRequest):
        venvd.connect(url)


def test_a_token_with_a_line_end_is_refused(script: Any) -> None:
    """Nothing can be smuggled into the head of a request."""
    with pytest.raises(venvd.InvalidRequest, match="line end"):
        venvd.connect("http://127.0.0.1:1", "a\r\nX-Evil: 1").eval("1")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, venvd.NotFound), (503, venvd.Unavailable), (418, venvd.Internal), (401, venvd.Unauthenticated)],
)
def test_errors_of_a_proxy_in_between(evaluate: Any, script: Any, status: int, kind: type[Exception]) -> None:
    """An error without problem details becomes the error of its status, with what was said."""
    said = b"HTTP/1.1 %d Oh\r\nContent-Length: 7\r\n\r\n<html/>" % status
    with pytest.raises(kind, match="<html/>"):
        evaluate(script(said).url)


def test_a_cancelled_task_closes_its_connection(script: Any, eventually: Any) -> None:
    """Cancelling the task is what tells the server; the next call works."""
    peer = script("silence", reply(3))

    async def run() -> Any:
        async with venvd.connect_async(peer.url) as backend:
            task = asyncio.create_task(backend.eval("1"))
            await asyncio.to_thread(eventually, lambda: peer.requests)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(peer.gone.wait, 10)
            return await backend.eval("1")

    assert asyncio.run(run()) == 3


def test_threads_share_a_client(server: Any) -> None:
    """Many threads at once each get their own answers."""
    wrong: list[Any] = []
    with venvd.connect(server.url, server.token) as backend:

        def work(number: int) -> None:
            wrong.extend(step for step in range(30) if backend.eval("_n + _s", _n=number, _s=step) != number + step)

        threads = [threading.Thread(target=work, args=(1000 * number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_tasks_share_a_client(server: Any) -> None:
    """Many tasks at once each get their own answers."""

    async def run() -> list[Any]:
        async with venvd.connect_async(server.url, server.token) as backend:
            return await asyncio.gather(*(backend.eval("_n * 2", _n=number) for number in range(100)))

    assert asyncio.run(run()) == [number * 2 for number in range(100)]


def test_a_forked_child_makes_its_own_connections(server: Any) -> None:
    """Parent and child use the client at once, and the child's end leaves the parent's handles alone."""
    with venvd.connect(server.url, server.token) as backend:
        held = backend.wrap([1])
        child = os.fork()
        if child == 0:
            right = backend.eval("6 * 7") == 42
            backend.close()
            os._exit(0 if right else 1)
        assert backend.eval("6 * 7") == 42
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert held[0] == 1


def test_a_closed_client_says_so(server: Any) -> None:
    """After `close` a call is an error, not a new connection."""
    backend = venvd.connect(server.url, server.token)
    backend.close()
    backend.close()
    with pytest.raises(venvd.Unavailable, match="closed"):
        backend.eval("1")


def test_large_answers(server: Any) -> None:
    """A text of 8 MB arrives whole."""
    with venvd.connect(server.url, server.token) as backend:
        assert len(backend.eval("'é' * 4_000_000")) == 4_000_000


def test_a_reader_says_when_bytes_are_left_over() -> None:
    """Bytes behind an answer make the connection useless, not the answer."""
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 204 No Content\r\n\r\nmore")
    assert reader.done
    assert not reader.reusable


def test_server_sent_events_however_they_are_cut() -> None:
    """Comments are skipped, lines of data joined, and IDs kept from event to event."""
    text = b": hello\nid: 3\nevent: log\ndata: a\ndata: b\n\nid: 4\r\ndata: c\r\n\r\n: end\n\n"
    for size in (1, 2, 7, len(text)):
        parser = EventParser()
        events = [event for start in range(0, len(text), size) for event in parser.feed(text[start : start + size])]
        assert [(event.id, event.name, event.data) for event in events] == [("3", "log", "a\nb"), ("4", "message", "c")]


@pytest.mark.parametrize("run", ["sync", "async"])
def test_a_stream_that_is_left_cancels_its_call(script: Any, run: str) -> None:
    """Closing the iterator of events closes the connection, which is what tells the server."""
    begin = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    text = b'event: stdout\ndata: "a"\n\n'
    peer = script([begin + b"%x\r\n%s\r\n" % (len(text), text), "silence"])

    async def leave() -> None:
        async with venvd.connect_async(peer.url) as backend:
            events = backend.exec_stream("loop()")
            assert (await anext(events)).data == "a"
            await events.aclose()  # type: ignore[attr-defined]

    if run == "async":
        asyncio.run(leave())
    else:
        with venvd.connect(peer.url) as backend:
            events = backend.exec_stream("loop()")
            assert next(events).data == "a"
            events.close()  # type: ignore[attr-defined]
    assert peer.gone.wait(10)


def test_a_stream_that_is_cut(script: Any) -> None:
    """A stream without its end is `Unavailable`, even where the body is whole."""
    text = b'event: stdout\ndata: "a"\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(text)
    with venvd.connect(script(head + text).url) as backend, pytest.raises(venvd.Unavailable, match="ended before"):
        list(backend.exec_stream("1"))


@pytest.mark.parametrize("evaluator", [sync_eval, async_eval])
def test_a_unix_socket_whose_queue_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluator: Any) -> None:
    """A listener that accepts no connection is `Unreachable` after the time for connecting."""
    for module in ("blocking", "aio"):
        monkeypatch.setattr(f"venvd._net.{module}.CONNECT_TIMEOUT", 0.3)
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as waiting:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        for _ in range(2):
            caller = waiting.enter_context(socket.socket(socket.AF_UNIX))
            caller.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                caller.connect(str(tmp_path / "s"))
        with pytest.raises(venvd.Unreachable, match="within"):
            evaluator(f"unix://{tmp_path}/s")


@pytest.mark.slow
def test_a_program_that_ends_lets_go_quietly(server: Any) -> None:
    """Proxies that live at the end of the interpreter leave no handle and no word on stderr."""
    code = (
        "import sys, venvd\n"
        f"b = venvd.connect({server.url!r}, {server.token!r})\n"
        "kept = [b.wrap([number]) for number in range(10)]\n"
        "loop = [b.wrap([0])]; loop.append(loop)\n"
        "del loop\n"
        "sys.stdout.write(str(len(b.handles())))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"11", b"")
    assert not server.interpreter.objects
