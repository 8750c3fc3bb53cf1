"""What a session and a call are given: directory, lifetime, environment, and callbacks for output and ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from harness.stack import Running
from harness.waiting import wait_until

import venvd

pytestmark = pytest.mark.about("transport")


@pytest.fixture
def backend(running: Running) -> Iterator[venvd.Backend]:
    with venvd.connect(running.url, token=running.token) as connected:
        yield connected


def test_a_session_has_a_directory(backend: venvd.Backend) -> None:
    """A relative `cwd` is made, code runs in it and finds modules there, and `files` keeps its root."""
    with backend.sessions.create(cwd="work/deep", env={"TOLD": "yes"}) as session:
        session.files.put("work/deep/own.py", b"value = 7")
        assert session.eval("import os, own\n(os.getcwd().endswith('/work/deep'), own.value, os.environ['TOLD'])") == (
            True,
            7,
            "yes",
        )
        assert session.info is not None
        assert session.info.cwd == "work/deep"
        session.reset()
        assert session.eval("import os\nos.getcwd().endswith('/work/deep')") is True


def test_a_directory_that_cannot_be(backend: venvd.Backend) -> None:
    """A path that leads out is refused, and an absent absolute one says that it is absent."""
    with pytest.raises(venvd.InvalidRequest, match=r'has "\.\." as a part'):
        backend.sessions.create(cwd="../other")
    with pytest.raises(venvd.Unavailable, match="cannot work in the directory that cwd names"):
        backend.sessions.create(cwd="/absent/directory")


def test_a_lifetime_ends_a_busy_session(backend: venvd.Backend) -> None:
    """The session ends so long after its creation, and its running call learns why."""
    session = backend.sessions.create(lifetime=1.5)
    assert session.info is not None
    assert session.info.lifetime == 1.5
    with pytest.raises(venvd.SessionLost, match=r"its lifetime of 1\.5 s is over"):
        session.exec("import time\nwhile True: time.sleep(0.01)")
    assert session.name not in [info.id for info in backend.sessions.list()]
    with pytest.raises(venvd.InvalidRequest, match="lifetime takes"):
        backend.sessions.create(lifetime=-1)


def test_a_call_has_an_environment(backend: venvd.Backend) -> None:
    """Variables of a call count for that call and the processes that it starts, also where it fails."""
    ask = "__import__('os').environ.get('CALL')"
    with backend.sessions.create(env={"CALL": "session"}) as session:
        assert session.eval(ask, env={"CALL": "one"}) == "one"
        shown = session.exec("import os; os.system('echo $CALL')", env={"CALL": "two"}).stdout
        assert shown == "two\n"
        assert session.eval("1 + 1", env={"CALL": "x", "OTHER": "y"}) == 2
        with pytest.raises(ZeroDivisionError):
            session.exec("1 / 0", env={"CALL": "x"})
        with pytest.raises(venvd.DeadlineExceeded):
            session.eval("while True: pass", env={"CALL": "x"}, timeout=0.3)
        assert session.background.eval(ask, env={"CALL": "three"}).result() == "three"
        assert session.eval(f"({ask}, 'OTHER' in __import__('os').environ)") == ("session", False)
        with pytest.raises(venvd.InvalidRequest, match="cannot be a variable"):
            session.eval("1", env={"A=B": "c"})


def test_output_is_passed_on_as_it_comes(backend: venvd.Backend) -> None:
    """The callbacks get text before the code ends, and the whole output comes at the end."""
    with backend.sessions.create() as session:
        seen: list[str] = []
        errors: list[str] = []

        def go_on(text: str) -> None:
            if not seen:
                backend.session(session.name).files.put("go", b"")
            seen.append(text)

        code = "import os, sys, time\nprint('first', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
        code += "print('last')\nprint('bad', file=sys.stderr)\n6 * 7"
        output = session.exec(code, on_stdout=go_on, on_stderr=errors.append)
        assert "".join(seen) == output.stdout == "first\nlast\n"
        assert "".join(errors) == output.stderr == "bad\n"
        assert output.result == 42
        with pytest.raises(ZeroDivisionError):
            session.exec("1 / 0", on_stdout=seen.append)
        with pytest.raises(RuntimeError, match="enough"):
            session.exec("while True: print('x' * 1000, flush=True)", on_stdout=_raise)
        assert session.eval("1 + 1", timeout=30) == 2


def _raise(_text: str) -> None:
    raise RuntimeError("enough")


def test_callbacks_of_background_calls(backend: venvd.Backend) -> None:
    """Each callback gets the call once when it has ended, also where it ended before or failed."""
    with backend.sessions.create() as session:
        ended = threading.Event()
        results: list[int] = []
        call = session.background.eval("6 * 7")
        call.add_done_callback(lambda done: results.append(done.result()))
        call.add_done_callback(lambda _: 1 / 0)
        call.add_done_callback(lambda _: ended.set())
        assert ended.wait(30)
        assert results == [42]
        call.add_done_callback(lambda done: results.append(done.result() + 1))
        wait_until(lambda: results == [42, 43], "the second callback has run")


def test_all_of_it_in_asyncio(running: Running) -> None:
    """The same words, awaited."""

    async def work() -> None:
        async with (
            venvd.connect_async(running.url, token=running.token) as backend,
            await backend.sessions.create(cwd="w", lifetime=300) as session,
        ):
            seen: list[str] = []
            output = await session.exec("import os\nprint(os.environ['A'])", env={"A": "b"}, on_stdout=seen.append)
            assert "".join(seen) == output.stdout == "b\n"
            ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            call = await session.background.exec("print('hi')")
            call.add_done_callback(lambda done: ended.set_result(done.id))
            assert await ended == call.id

    asyncio.run(work())
