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
        session.files.save("gone", 7)  # type: ignore[arg-type]
    with pytest.raises(venvd.InvalidRequest, match=r'no local file "text".*text\.encode'):
        session.files.put("x", "text")
    for source in (7, iter([b"x"]), io.StringIO("text")):
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


def test_directories_go_and_come(session: venvd.Session, tmp_path: Path) -> None:
    """A local directory is sent and fetched whole, in parts where it is large, and so is an archive."""
    local = tmp_path / "local"
    (local / "sub" / "empty").mkdir(parents=True)
    large = os.urandom(1 << 20) * 20
    (local / "large").write_bytes(large)
    (local / "sub" / "ü").write_text("small")
    (local / "sub" / "run").write_text("#!/bin/sh")
    (local / "sub" / "run").chmod(0o755)
    (local / "sub" / "same").hardlink_to(local / "large")
    (local / "link").symlink_to("sub/run")
    assert session.files.put("there", str(local)).isDirectory
    names = ["large", "link", "sub", "sub/empty", "sub/run", "sub/same", "sub/ü"]
    assert [each.path for each in session.files.list("there", recursive=True)] == [f"there/{name}" for name in names]
    assert session.files.get("there/sub/same") == large
    info = session.files.get("there", tmp_path / "back")
    assert info.isDirectory
    assert (tmp_path / "back" / "large").read_bytes() == large
    assert (tmp_path / "back" / "link").read_text() == "#!/bin/sh"
    assert (tmp_path / "back" / "sub" / "run").stat().st_mode & 0o111
    assert (tmp_path / "back" / "sub" / "empty").is_dir()
    archive = session.files.get_archive("there/sub")
    session.files.put_archive("copy", archive)
    assert session.files.get("copy/ü") == b"small"
    session.files.get("there/sub/ü", str(tmp_path / "back"))
    assert (tmp_path / "back" / "ü").read_text() == "small"
    with pytest.raises(venvd.InvalidRequest, match="no directory"):
        session.files.get_archive("copy/ü")
    with pytest.raises(venvd.NotFound):
        session.files.get("absent", tmp_path / "absent")
    session.files.put_archive(".", archive)
    assert session.files.get("run") == b"#!/bin/sh"
    assert len(session.files.get_archive()) > len(large)


def test_a_directory_that_leads_out_is_not_extracted(session: venvd.Session, tmp_path: Path) -> None:
    """A link that the session's code made to a place outside is refused here, and named."""
    session.exec("import os\nos.mkdir('d')\nos.symlink('/etc', 'd/out')")
    with pytest.raises(venvd.BadReply, match=r"leads out of it: .*out"):
        session.files.get("d", tmp_path / "d")
