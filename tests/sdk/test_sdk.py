"""The SDK over every transport and engine: the same object, whatever the URL."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import pickle
import threading
import time
from collections.abc import Iterator

import pytest
from harness.stack import Running

import venvd

pytestmark = pytest.mark.about("transport")


@pytest.fixture
def backend(running: Running) -> Iterator[venvd.Backend]:
    with venvd.connect(running.url, token=running.token) as made:
        yield made


@pytest.mark.about("everywhere")
def test_values_keep_their_types(backend: venvd.Backend) -> None:
    """What Python has and JSON lacks goes there and comes back as it was."""
    value = [1, 2.5, (1, {2}), {1: b"x"}, dt.date(2024, 2, 29), 2**70, float("inf"), 1j, None, True, "\u2603"]
    assert backend.eval("v", v=value) == value


def test_proxies_feel_like_their_objects(backend: venvd.Backend) -> None:
    """Attributes, calls, indexing, iteration, len, operators and context managers work on a proxy."""
    collections = backend.import_module("collections")
    queue = collections.deque([1, 2, 3], maxlen=5)
    assert (len(queue), queue[0], list(queue), 2 in queue, queue.maxlen) == (3, 1, [1, 2, 3], True, 5)
    queue.append(4)
    assert queue.pop() == 4
    box = backend.eval("type('Box', (), {})()")
    box.size = 3
    assert box.size == 3
    with backend.eval("__import__('threading').Lock()") as held:
        assert held is True
    assert (backend.wrap(2) + 3) == 5


@pytest.mark.about("everywhere")
def test_errors_are_one_tree(backend: venvd.Backend) -> None:
    """A remote error carries its type and traceback, and is caught as what it is and as what it was."""
    with pytest.raises(venvd.UserError) as caught:
        backend.eval("{}['gone']")
    assert isinstance(caught.value, KeyError)
    assert caught.value.error_type == "KeyError"
    assert "{}['gone']" in (caught.value.traceback or "")


CHAIN = """
import json
class Refused(ConnectionRefusedError): pass
def fail():
    try:
        json.loads("{")
    except ValueError as error:
        raised = Refused(111, "it is closed", "/the/file")
        if hasattr(raised, "add_note"):
            raised.add_note("while the test runs")
        raise raised from error
class Gone(AttributeError): pass
class Odd:
    def __getattr__(self, name):
        raise Gone(name)
"""


def test_errors_have_members_and_a_chain(backend: venvd.Backend) -> None:
    """The bases, arguments, members, notes and causes of an exception travel, from a call and from an `exec`."""
    with backend.sessions.create() as session:
        session.exec(CHAIN)
        for fail in (lambda: session.eval("fail()"), lambda: session.exec("fail()")):
            with pytest.raises(OSError, match="it is closed") as caught:
                fail()
            error = caught.value
            assert isinstance(error, venvd.UserError)
            assert isinstance(error, ConnectionRefusedError)
            assert (error.errno, error.filename, error.args) == (111, "/the/file", (111, "it is closed"))
            assert error.__notes__[0] == "while the test runs"
            assert isinstance(error.__cause__, ValueError)
            assert (error.exception or {})["bases"][:2] == ["ConnectionRefusedError", "ConnectionError"]
        assert not hasattr(session.eval("Odd()"), "anything")


def test_errors_carry_the_output_before_them(backend: venvd.Backend) -> None:
    """What an `exec` printed before it raised, ran into its deadline or reached a limit is not lost."""
    with pytest.raises(ZeroDivisionError) as raised:
        backend.exec("print('so far')\n1 / 0")
    with backend.sessions.create() as session, pytest.raises(venvd.DeadlineExceeded) as late:
        session.exec("print('begun', flush=True)\nwhile True: pass", timeout=3)
    for error, text in ((raised.value, "so far\n"), (late.value, "begun\n")):
        assert isinstance(error, venvd.VenvdError)
        assert error.output.stdout == text
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - an error of this test
        assert (type(copy), copy.output) == (type(error), error.output)


def test_a_wrong_token_is_told(running: Running) -> None:
    """`Unauthenticated`, over each transport."""
    with venvd.connect(running.url, token="wrong") as stranger, pytest.raises(venvd.Unauthenticated):
        stranger.eval("1")


def test_a_timeout_leaves_the_state(backend: venvd.Backend) -> None:
    """A call over its timeout raises `DeadlineExceeded`, and says that the state survived."""
    backend.exec("kept = 5")
    with pytest.raises(venvd.DeadlineExceeded) as caught:
        backend.eval("__import__('time').sleep(60)", timeout=0.4)
    assert caught.value.state_lost is False
    assert backend.eval("kept") == 5


def test_the_answer_about_code_that_does_not_stop_is_waited_for(running: Running) -> None:
    """The server takes seconds to kill such code. It answers a ping meanwhile, so its own answer comes through."""
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n__import__('time').sleep(60)"

    async def run() -> None:
        async with (
            venvd.connect_async(running.url, token=running.token) as backend,
            await backend.sessions.create() as session,
        ):
            with pytest.raises(venvd.VenvdError) as caught:
                await session.exec(code, timeout=0.2)
            assert caught.value.state_lost is True

    asyncio.run(run())
    with venvd.connect(running.url, token=running.token) as backend, backend.sessions.create() as session:
        with pytest.raises(venvd.VenvdError) as caught:
            session.exec(code, timeout=0.2)
        assert caught.value.state_lost is True


def test_a_lost_session_is_told(backend: venvd.Backend) -> None:
    """`SessionLost` says how the process ended; the next call finds a fresh session."""
    with pytest.raises(venvd.SessionLost, match="SIGSEGV") as caught:
        backend.eval("__import__('ctypes').string_at(0)")
    assert caught.value.state_lost is True
    assert backend.eval("1 + 1") == 2


def test_output_streams_as_it_appears(backend: venvd.Backend) -> None:
    """The first line is there while the code still runs; the last event is the whole output."""
    code = (
        "import os, time\nprint('first', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('second')"
    )
    events = []
    for event in backend.exec_stream(code):
        if not events:
            backend.files.put("go", b"")
        events.append((event.kind, event.data))
    assert "".join(data for kind, data in events if kind == "stdout") == "first\nsecond\n"
    assert events[-1][0] == "result"
    backend.files.delete("go")


def test_sessions_are_apart(backend: venvd.Backend) -> None:
    """A session of one's own shares no names with the default one, and is gone after it was deleted."""
    with backend.sessions.create() as mine:
        mine.exec("secret = 1")
        assert mine.eval("secret") == 1
        assert backend.eval("'secret' in globals()") is False


def test_dead_proxies_let_their_objects_go(backend: venvd.Backend) -> None:
    """Handles of proxies that died are released without anyone asking."""
    with backend.sessions.create() as mine:
        for _ in range(50):
            mine.eval("object()")
        gc.collect()
        mine.eval("1")
        end = time.monotonic() + 120
        while len(mine.handles()) > 0 and time.monotonic() < end:
            time.sleep(0.1)
            mine.eval("1")
        assert mine.handles() == []


def test_threads_share_one_client(backend: venvd.Backend) -> None:
    """Many threads on one object each get their own answer."""
    wrong: list[int] = []

    def run(number: int) -> None:
        wrong.extend(number for _ in range(10) if backend.eval(f"{number} * 2") != number * 2)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_asyncio_has_the_same(running: Running) -> None:
    """Awaited calls, gathered calls, streams, errors and proxies over asyncio."""

    async def main() -> None:
        async with venvd.connect_async(running.url, token=running.token) as backend:
            assert await backend.eval("1 + 1") == 2
            assert await asyncio.gather(*(backend.eval(f"{n}") for n in range(10))) == list(range(10))
            kinds = [event.kind async for event in backend.exec_stream("print('x')")]
            assert kinds[-1] == "result"
            with pytest.raises(venvd.UserError, match="division"):
                await backend.eval("1 / 0")

    asyncio.run(main())


def test_cancelling_a_task_cancels_the_call(running: Running) -> None:
    """A task that is cancelled interrupts its code: the session answers the next call soon."""

    async def main() -> None:
        async with venvd.connect_async(running.url, token=running.token) as backend:
            await backend.exec("kept = 7")
            task = asyncio.create_task(backend.eval("__import__('time').sleep(60)"))
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await backend.eval("kept", timeout=20) == 7

    asyncio.run(main())
