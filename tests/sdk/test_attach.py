"""The SDK over a pipe: sessions answer it directly, and what is lost is told, once."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from harness.callers import PipeCaller
from harness.stack import Running, Stack

import venvd

LOOPS = "import time\nwhile True:\n    time.sleep(0.01)"
COUNTS = """
import os, stat

def count_sockets():
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += stat.S_ISSOCK(os.fstat(int(name)).st_mode)
        except OSError:
            pass
    return found
"""
DIES = "__import__('os')._exit(3)"


@pytest.fixture(scope="module")
def pipe(stack: Stack) -> Iterator[Running]:
    running = stack.start("pipe")
    yield running
    stack.stop(running)


@pytest.fixture
def backend(pipe: Running) -> Iterator[venvd.Backend]:
    """A client whose calls of the default session are direct."""
    with venvd.connect(pipe.url, pipe.token) as made:
        made.sessions.reset("default")
        assert [made.eval("1"), made.eval("2")] == [1, 2]
        yield made


def until_busy(backend: venvd.Backend) -> None:
    while backend.sessions.get("default").state != "busy":
        pass


def test_calls_are_direct(pipe: Running, backend: venvd.Backend) -> None:
    """The session sees a connection of its own, and state, handles and errors are what they are elsewhere."""
    backend.exec(COUNTS)
    sockets = "count_sockets()"
    direct = backend.eval(sockets)
    backend.close()
    caller = PipeCaller(pipe.url, pipe.token)
    while caller("eval", {"expression": sockets})["value"] != direct - 1:
        pass
    caller.close()


def test_state_and_handles(backend: venvd.Backend) -> None:
    """Proxies, errors of user code and output come as over every transport."""
    held = backend.eval("[1, 2, 3].__iter__()")
    assert next(iter(held)) == 1
    with pytest.raises(ZeroDivisionError):
        backend.eval("1 / 0")
    assert backend.exec("print('a')").stdout == "a\n"
    assert [event.kind for event in backend.exec_stream("print('a')")] == ["stdout", "result"]
    assert backend.eval("'x' * 1_000_000") == "x" * 1_000_000


def test_interrupts_go_another_way(backend: venvd.Backend) -> None:
    """`interrupt`, `ping` and the list of sessions work while a direct call runs; the state stays."""
    backend.exec("kept = 1")
    caught: list[BaseException] = []

    def run() -> None:
        try:
            backend.exec(LOOPS)
        except venvd.VenvdError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until_busy(backend)
    assert backend.ping()
    backend.session("default").interrupt()
    thread.join()
    assert isinstance(caught[0], venvd.Cancelled)
    assert backend.eval("kept") == 1


def test_a_process_that_dies(backend: venvd.Backend) -> None:
    """The running call is told that the state is lost, and the next one is served by a new process."""
    with pytest.raises(venvd.SessionLost, match="status 3") as caught:
        backend.eval(DIES)
    assert caught.value.state_lost
    assert backend.eval("1 + 1") == 2


def test_a_loss_that_two_calls_see_is_told_once(backend: venvd.Backend) -> None:
    """What was told by one call is no news for the next because of a call that could be sent twice."""
    backend.exec("kept = 1")
    waiting = threading.Thread(target=backend.handles)
    with pytest.raises(venvd.SessionLost):
        for event in backend.exec_stream("import os, time\nprint('in')\ntime.sleep(1)\nos._exit(3)"):
            if event.kind == "stdout" and waiting.ident is None:
                waiting.start()
    waiting.join()
    assert backend.eval("'kept' in globals()") is False


def test_a_loss_between_calls_is_told_once(pipe: Running, backend: venvd.Backend) -> None:
    """Somebody else resets the session: the next call raises `SessionLost`, the one after it is served."""
    backend.exec("kept = 1")
    caller = PipeCaller(pipe.url, pipe.token)
    caller("session.reset", {"id": "default"})
    caller.close()
    assert backend.handles() == []  # a call that could be sent twice does no harm, and uses up no news
    with pytest.raises(venvd.SessionLost) as caught:
        backend.eval("kept")
    assert caught.value.state_lost
    with pytest.raises(NameError):
        backend.eval("kept")


def test_a_reset_of_ones_own_is_no_loss(backend: venvd.Backend) -> None:
    """Who resets or deletes a session is not told that its state is gone."""
    backend.sessions.reset("default")
    assert backend.eval("1") == 1
    session = backend.sessions.create("brief")
    assert [session.eval("1"), session.eval("2")] == [1, 2]
    session.delete()
    with pytest.raises(venvd.NotFound):
        session.eval("1")


def test_threads_share_a_client(backend: venvd.Backend) -> None:
    """Each gets its own answers, however many there are."""
    wrong: list[int] = []

    def run(number: int) -> None:
        wrong.extend(n for n in range(100) if backend.eval(f"{number} * 1000 + {n}") != number * 1000 + n)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_stream_that_is_closed(backend: venvd.Backend) -> None:
    """Closing it cancels the code, and the state stays."""
    backend.exec("kept = 1")
    events = backend.exec_stream("print('begun')\n" + LOOPS)
    assert next(events).data == "begun\n"
    events.close()
    assert backend.eval("kept") == 1


def test_timeouts(backend: venvd.Backend) -> None:
    """A direct call keeps its deadline, and the connection serves the next one."""
    with pytest.raises(venvd.DeadlineExceeded):
        backend.exec(LOOPS, timeout=0.2)
    assert backend.eval("1") == 1


def test_a_timeout_longer_than_the_kernel_waits(backend: venvd.Backend) -> None:
    """It is a timeout as any other, and so is none at all."""
    assert backend.eval("1", timeout=1e10) == 1
    assert backend.eval("2", timeout=venvd.NO_DEADLINE) == 2


def test_a_forked_child_makes_its_own(backend: venvd.Backend) -> None:
    """Parent and child use the same client, and neither reads the other's answers."""
    child = os.fork()
    if not child:
        status = 1
        try:
            status = int([backend.eval(str(n)) for n in range(50)] != list(range(50)))
        finally:
            os._exit(status)
    assert [backend.eval(str(n)) for n in range(50)] == list(range(50))
    assert os.waitpid(child, 0)[1] == 0


def test_a_backend_that_does_not_offer_it(stack: Stack) -> None:
    """The server's connection carries every call, and nothing is told of it."""
    running = stack.start("pipe", VENVD_ATTACH="0")
    with venvd.connect(running.url, running.token) as backend:
        assert [backend.eval(str(n)) for n in range(3)] == [0, 1, 2]
    stack.stop(running)


def test_more_clients_than_may_be(stack: Stack) -> None:
    """Where the session takes no further direct client, the server answers."""
    running = stack.start("pipe", VENVD_MAX_ATTACHED_PER_SESSION="1")
    with venvd.connect(running.url, running.token) as one, venvd.connect(running.url, running.token) as other:
        for n in range(5):
            assert one.eval(str(n)) == other.eval(str(n)) == n
    stack.stop(running)


def test_asyncio(pipe: Running) -> None:
    """The same for tasks: many at once, a loss in a call, a loss between calls, a stream, a cancelled call."""

    async def main() -> None:
        async with venvd.connect_async(pipe.url, pipe.token) as backend:
            await backend.sessions.reset("default")
            for _ in range(2):
                assert await asyncio.gather(*(backend.eval(str(n)) for n in range(30))) == list(range(30))
            with pytest.raises(venvd.SessionLost):
                await backend.eval(DIES)
            await backend.exec("kept = 1")
            task = asyncio.create_task(backend.exec(LOOPS))
            while (await backend.sessions.get("default")).state != "busy":
                pass
            task.cancel()
            assert await backend.eval("kept") == 1
            assert [event.kind async for event in backend.exec_stream("print('a')")] == ["stdout", "result"]
            caller = PipeCaller(pipe.url, pipe.token)
            caller("session.reset", {"id": "default"})
            caller.close()
            with pytest.raises(venvd.SessionLost):
                await backend.eval("kept")
            assert await backend.eval("1") == 1

    asyncio.run(main())


def test_a_client_without_room(pipe: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the descriptors of the pipes find no place in this process, the server is asked: nothing is lost."""

    def lose(connection: socket.socket, size: int, _most: int, flags: int) -> tuple[bytes, list[int], int, None]:
        return connection.recv(size), [], flags, None

    monkeypatch.setattr(socket, "recv_fds", lose)
    with venvd.connect(pipe.url, pipe.token) as backend:
        assert [backend.eval("1") for _ in range(3)] == [1, 1, 1]


def test_a_session_without_room(pipe: Running) -> None:
    """A session that cannot take one more connection is called by way of the server; nothing is told of it."""
    with venvd.connect(pipe.url, pipe.token) as first:
        session = first.sessions.create("narrow", limits={"openFiles": 40})
        others = [venvd.connect(pipe.url, pipe.token) for _ in range(40)]
        for _ in range(3):
            assert [other.session("narrow").eval("1") for other in others] == [1] * 40
        for other in others:
            other.close()
        session.delete()
