"""Files and calls in the background through the SDK, over every transport and engine."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.stack import Running

import venvd

pytestmark = pytest.mark.about("transport")


@pytest.fixture
def session(running: Running) -> Iterator[venvd.Session]:
    with venvd.connect(running.url, token=running.token) as backend, backend.sessions.create() as made:
        yield made


def test_files_go_and_come(session: venvd.Session, tmp_path: Path) -> None:
    """Bytes, local files and open files are sent, in parts where they are large; what is fetched is the same."""
    large = os.urandom(1 << 20) * 20
    (tmp_path / "large").write_bytes(large)
    assert session.files.put("in/large", tmp_path / "large").sizeBytes == len(large)
    session.files.put("in/ü #?%.txt", b"small")
    session.files.put("in/empty", io.BytesIO())
    assert session.eval("import os; {n: os.path.getsize('in/' + n) for n in sorted(os.listdir('in'))}") == {
        "empty": 0,
        "large": len(large),
        "ü #?%.txt": 5,
    }
    assert session.files.get("in/large") == large
    info = session.files.save("in/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large
    assert info.sizeBytes == len(large)
    assert session.files.get("in/ü #?%.txt") == b"small"
    assert session.files.get("in/empty") == b""
    assert [each.path for each in session.files.list(recursive=True)][:2] == ["in", "in/empty"]
    session.files.delete("in", recursive=True)
    assert session.files.list() == []


def test_names_that_are_no_utf8(session: venvd.Session) -> None:
    """A name of any bytes is written as `os.fsdecode` gives it."""
    name = os.fsdecode(b"\xff\xfe")
    session.files.put(name, b"x")
    assert session.files.get(name) == b"x"
    assert session.eval("import os; os.listdir(b'.')") == [b"\xff\xfe"]
    session.files.delete(name)


def test_errors_of_files(session: venvd.Session, tmp_path: Path) -> None:
    """A file that is not there is `NotFound` and leaves nothing here; a path that leads out is refused."""
    with pytest.raises(venvd.NotFound, match="gone"):
        session.files.save("gone", tmp_path / "gone")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(venvd.InvalidRequest, match="absolute"):
        session.files.put("/etc/x", b"")
    with pytest.raises(venvd.InvalidRequest, match="is no file"):
        session.files.save("gone", "text")  # type: ignore[arg-type]
    for source in ("text", iter([b"x"]), io.StringIO("text")):
        with pytest.raises(venvd.InvalidRequest, match="neither bytes nor a file"):
            session.files.put("x", source)  # type: ignore[arg-type]
    with pytest.raises(venvd.Conflict, match="not empty"):
        session.files.put("a/b", b"")
        session.files.delete("a")


def test_calls_in_the_background(session: venvd.Session) -> None:
    """A call that was started gives its value, its proxy or its error when it is asked for, by ID as well."""
    slow = session.background.eval("import time; time.sleep(0.2); (1, x)", x={2})
    assert session.background.get(slow.id).result() == (1, {2})
    assert slow.done()
    assert slow.info().state == "succeeded"
    queue = session.background.create(session.import_module("collections"), "deque", [1, 2]).result()
    assert list(queue) == [1, 2]
    assert session.background.exec("print('hi')").result().stdout == "hi\n"
    with pytest.raises(venvd.UserError, match="division"):
        session.background.eval("1 / 0").result()
    with pytest.raises(venvd.NotFound):
        session.background.get("0" * 32).result()


def test_cancelling_in_the_background(session: venvd.Session) -> None:
    """A result that is not there in time is not lost, and a call that is cancelled says so."""
    endless = session.background.exec("while True: pass")
    with pytest.raises(venvd.DeadlineExceeded, match="keeps running"):
        endless.result(timeout=0.1)
    endless.cancel()
    with pytest.raises(venvd.Cancelled):
        endless.result(timeout=30)
    endless.cancel()
    late = session.background.exec("while True: pass", timeout=0.2)
    with pytest.raises(venvd.DeadlineExceeded):
        late.result()


def test_all_of_it_in_asyncio(running: Running, tmp_path: Path) -> None:
    """The same words, awaited."""
    (tmp_path / "a").write_bytes(b"a" * 9_000_000)

    async def work() -> None:
        async with (
            venvd.connect_async(running.url, token=running.token) as backend,
            await backend.sessions.create() as session,
        ):
            await session.files.put("x/a", tmp_path / "a")
            assert len(await session.files.get("x/a")) == 9_000_000
            assert (await session.files.save("x/a", tmp_path / "b")).sizeBytes == 9_000_000
            assert [each.path for each in await session.files.list(recursive=True)] == ["x", "x/a"]
            await session.files.delete("x/a")
            call = await session.background.eval("6 * 7")
            assert await call.result() == 42
            assert await call.done()
            endless = await session.background.exec("while True: pass")
            await endless.cancel()
            with pytest.raises(venvd.Cancelled):
                await endless.result()

    asyncio.run(work())
