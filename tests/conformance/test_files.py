"""Files of a session's working directory, over every transport and engine; user code puts every trap it can there."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness.callers import Caller
from harness.filers import Filer, filer

from venvd_contract.errors import Conflict, InvalidRequest, LimitExceeded, NotFound, VenvdError

pytestmark = pytest.mark.about("transport")

SECRET = "root:"


@pytest.fixture
def session(call: Caller) -> Iterator[str]:
    made = call("session.create", {})
    yield made["id"]
    call("session.delete", {"id": made["id"]})


@pytest.fixture
def files(call: Any, session: str) -> Iterator[Filer]:
    session_files = filer(call, call.running, session)
    yield session_files
    session_files.close()


def run(call: Caller, session: str, code: str) -> Any:
    return call("eval", {"expression": f"import os, time\n{code}"}, session=session).get("value")


def listed(call: Caller, session: str, **fields: Any) -> list[str]:
    return [each["path"] for each in call("file.list", fields, session=session)["files"]]


@pytest.mark.about("everywhere")
def test_what_is_put_is_seen_by_code(call: Caller, session: str, files: Filer) -> None:
    """A file that a client sends is there for the session's code, with its bytes."""
    data = bytes(range(256)) * 3
    info = files.put("a.bin", data)
    assert (info["path"], info["sizeBytes"], info["kind"]) == ("a.bin", 768, "file")
    assert run(call, session, "list(open('a.bin', 'rb').read()[:3]) + [os.path.getsize('a.bin')]") == [0, 1, 2, 768]


@pytest.mark.about("everywhere")
def test_what_code_writes_is_fetched(call: Caller, session: str, files: Filer) -> None:
    """A file that the session's code writes is there for clients, whole or in part."""
    run(call, session, "os.makedirs('out/deep'); open('out/deep/r.txt', 'w').write('0123456789')")
    assert files.get("out/deep/r.txt") == b"0123456789"
    assert files.get("out/deep/r.txt", offset=3, length=4) == b"3456"
    assert files.get("out/deep/r.txt", offset=8, length=100) == b"89"
    assert files.get("out/deep/r.txt", offset=100, length=1) == b""


def test_empty_files(files: Filer) -> None:
    """A file may be empty."""
    assert files.put("empty", b"")["sizeBytes"] == 0
    assert files.get("empty") == b""


def test_a_large_file_passes(call: Caller, session: str, files: Filer) -> None:
    """Many megabytes pass in both directions and are the same."""
    data = os.urandom(1 << 20) * 40
    files.put("large", data)
    code = "import hashlib; hashlib.sha256(open('large', 'rb').read()).hexdigest()"
    assert run(call, session, code) == hashlib.sha256(data).hexdigest()
    assert files.get("large") == data


def test_put_replaces_and_makes_directories(call: Caller, session: str, files: Filer) -> None:
    """Directories on the way are made, unless that is not wanted; what was there is replaced, its mode kept."""
    files.put("x/y/z.txt", b"one")
    run(call, session, "os.chmod('x/y/z.txt', 0o750)")
    files.put("x/y/z.txt", b"two")
    assert run(call, session, "[open('x/y/z.txt').read(), os.stat('x/y/z.txt').st_mode & 0o777]") == ["two", 0o750]
    with pytest.raises(NotFound, match="nowhere"):
        files.put("nowhere/z.txt", b"three", parents=False)
    assert listed(call, session, recursive=True) == ["x", "x/y", "x/y/z.txt"]


def test_listing(call: Caller, session: str) -> None:
    """A list tells names, kinds, sizes and times, one directory or all that is below it."""
    run(call, session, "os.makedirs('d/e'); open('d/f', 'w').write('abc'); os.symlink('f', 'd/l'); os.mkfifo('d/p')")
    entries = {each["path"]: each for each in call("file.list", {"path": "d"}, session=session)["files"]}
    assert {path: each["kind"] for path, each in entries.items()} == {
        "d/e": "directory",
        "d/f": "file",
        "d/l": "link",
        "d/p": "other",
    }
    assert [entries[path]["sizeBytes"] for path in sorted(entries)] == [0, 3, 0, 0]
    assert entries["d/e"]["isDirectory"]
    assert entries["d/f"]["modifiedAt"].endswith("Z")
    assert listed(call, session) == ["d"]


def test_listing_in_pages(call: Caller, session: str) -> None:
    """A list of many files comes in pages that join without a gap, directories walked in the order of names."""
    run(call, session, "[os.makedirs(f'd{i}/e') for i in range(3)]")
    run(call, session, "[open(f'd{i}/e/{j:02}', 'w').close() for i in range(3) for j in range(5)]")
    run(call, session, "[open(f'd{i}.txt', 'w').close() for i in range(3)]")
    whole = listed(call, session, recursive=True)
    assert len(whole) == 24
    assert whole == sorted(whole, key=lambda path: path.split("/"))
    joined: list[str] = []
    following: dict[str, Any] = {}
    while True:
        page = call("file.list", {"recursive": True, "limit": 5, **following}, session=session)
        assert len(page["files"]) <= 5
        joined += [each["path"] for each in page["files"]]
        if not page.get("next"):
            break
        following = {"after": page["next"]}
    assert joined == whole


def test_deleting(call: Caller, session: str, files: Filer) -> None:
    """Files and empty directories go; full ones only with `recursive`, however deep and locked they are."""
    files.put("a/b/c", b"1")
    with pytest.raises(Conflict, match="not empty"):
        call("file.delete", {"path": "a"}, session=session)
    call("file.delete", {"path": "a/b/c"}, session=session)
    call("file.delete", {"path": "a/b"}, session=session)
    deep = "p = os.getcwd()\nfor _ in range(200):\n    os.mkdir('d' * 100); os.chdir('d' * 100)\nos.chdir(p)"
    run(call, session, f"{deep}\nos.mkdir('a/locked'); open('a/locked/f', 'w').close(); os.chmod('a/locked', 0)")
    for path in ("a", "d" * 100):
        call("file.delete", {"path": path, "recursive": True}, session=session)
    assert listed(call, session) == []
    with pytest.raises(NotFound):
        call("file.delete", {"path": "a"}, session=session)


def test_a_busy_session_does_not_matter(call: Caller, session: str, files: Filer) -> None:
    """Files pass while the session's code runs and never lets go of the interpreter."""
    code = "open('began', 'w').close()\nwhile not os.path.exists('end'): pass\nopen('end').read()"
    identity = call("call.start", {"command": "eval", "payload": {"expression": f"import os\n{code}"}}, session=session)
    until_there(files, "began")
    files.put("end", b"the end")
    info = call("call.get", {"id": identity["id"], "wait": 30})
    assert info["result"] == {"value": "the end"}


def until_there(files: Filer, path: str) -> None:
    for _ in range(3000):
        try:
            files.get(path)
        except NotFound:
            continue
        return
    raise AssertionError(path)


def test_a_session_that_died_has_a_new_directory(call: Caller, session: str, files: Filer) -> None:
    """What a session's process leaves behind goes with it; files can be sent at once to the one that follows."""
    files.put("old", b"1")
    with pytest.raises(VenvdError, match="status 7"):
        run(call, session, "os._exit(7)")
    files.put("new", b"2")
    assert run(call, session, "sorted(os.listdir())") == ["new"]


def test_no_session_no_files(call: Any) -> None:
    """Files of a session that is not there are not found."""
    files = filer(call, call.running, "nowhere")
    for ask in (lambda: files.get("a"), lambda: files.put("a", b"")):
        with pytest.raises(NotFound, match="nowhere"):
            ask()
    files.close()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/etc/passwd", "absolute"),
        ("../x", r'"\.\."'),
        ("a/../../x", r'"\.\."'),
        ("..", r'"\.\."'),
        (".", r'"\."'),
        ("a//b", '""'),
        ("a/", '""'),
        ("a\0b", "NUL"),
        ("n" * 256, "255 bytes"),
        ("/".join("ab" * 40), "64 names"),
    ],
)
def test_paths_that_are_none(call: Caller, session: str, files: Filer, path: str, says: str) -> None:
    """A path that leads elsewhere, or that no file can have, is refused with what is wrong."""
    for ask in (
        lambda: files.get(path),
        lambda: files.put(path, b"x"),
        lambda: call("file.delete", {"path": path, "recursive": True}, session=session),
    ):
        with pytest.raises(InvalidRequest, match=says):
            ask()


def test_links_lead_nowhere(call: Caller, session: str, files: Filer) -> None:
    """A symbolic link is neither read through nor written through, nor walked through; deleting it deletes it."""
    run(call, session, "os.symlink('/etc/passwd', 'l'); os.symlink('/etc', 'd'); os.symlink('..', 'up')")
    for path in ("l", "d/passwd", "up/x"):
        with pytest.raises(InvalidRequest, match="link"):
            files.get(path)
    for path in ("d/venvd", "up/x"):
        with pytest.raises(InvalidRequest, match="link"):
            files.put(path, b"x")
    with pytest.raises(InvalidRequest, match="link"):
        call("file.list", {"path": "d"}, session=session)
    assert listed(call, session, recursive=True) == ["d", "l", "up"]
    files.put("l", b"mine")
    assert files.get("l") == b"mine"
    assert run(call, session, "open('/etc/passwd').read(5)") == SECRET
    call("file.delete", {"path": "d", "recursive": True}, session=session)
    assert run(call, session, "os.path.exists('/etc/passwd')")


def test_hard_links_are_not_written_through(call: Caller, session: str, files: Filer) -> None:
    """A file that is replaced is a new one: other names of the old one keep what they had."""
    run(call, session, "open('a', 'w').write('kept'); os.link('a', 'b')")
    files.put("a", b"new")
    assert files.get("b") == b"kept"


def test_what_is_no_file(call: Caller, session: str, files: Filer) -> None:
    """FIFOs, sockets and directories are not read, at once and with a reason; a directory is not replaced."""
    run(call, session, "import socket; os.mkfifo('f'); s = socket.socket(socket.AF_UNIX); s.bind('s'); os.mkdir('d')")
    for path in ("f", "s", "d"):
        with pytest.raises(InvalidRequest, match=path):
            files.get(path)
    with pytest.raises(InvalidRequest, match="directory"):
        files.put("d", b"x")
    with pytest.raises(InvalidRequest, match="no directory"):
        files.put("f/x", b"x")
    files.put("f", b"a file now")
    assert run(call, session, "open('f').read()") == "a file now"


def test_a_swap_meanwhile_does_not_lead_out(call: Caller, session: str, files: Filer) -> None:
    """Where code swaps a directory for a link again and again, nothing of outside is seen, nothing written there."""
    code = """
import threading
os.mkdir('d'); open('d/passwd', 'w').write('mine'); os.symlink('/etc', 'l')
going = True
def swap():
    while going:
        os.rename('d', 'x'); os.rename('l', 'd'); os.rename('d', 'l'); os.rename('x', 'd')
thread = threading.Thread(target=swap); thread.start()
"""
    run(call, session, code)
    seen = set()
    for _ in range(60):
        try:
            seen.add(files.get("d/passwd"))
        except (InvalidRequest, NotFound):
            seen.add(b"refused")
        try:
            files.put("d/new", b"x", parents=False)
        except (InvalidRequest, NotFound):
            seen.add(b"refused")
    assert seen <= {b"mine", b"refused"}
    assert run(call, session, "going = False; thread.join(); os.path.exists('/etc/new')") is False


def test_names_of_any_bytes(call: Caller, session: str, files: Filer) -> None:
    """Names with line ends, quotes, per cent signs, other scripts, and bytes that are no UTF-8."""
    names = ["new\nline", 'q"uote', "50%41", "größe ✓", "sp ace?#&", "\udcff\udcfe"]
    for name in names:
        files.put(f"n/{name}", name.encode("utf-8", "surrogateescape"))
    for name in names:
        assert files.get(f"n/{name}") == name.encode("utf-8", "surrogateescape")
    code = "[list(name) for name in sorted(os.listdir(b'n'))]"
    assert run(call, session, code) == [list(name) for name in sorted(os.fsencode(each) for each in names)]
    listed = call("file.list", {"path": "n"}, session=session)["files"]
    assert {each["path"] for each in listed} == {f"n/{name}" for name in names[:-1]} | {"n/\ufffd\ufffd"}
    assert [bool(each.get("pathBytes")) for each in listed] == [each["path"] == "n/\ufffd\ufffd" for each in listed]


def test_a_sparse_file_is_fetched_in_part(call: Caller, session: str, files: Filer) -> None:
    """A file that claims terabytes costs nothing: a part of it is fetched as any other."""
    run(call, session, "f = open('huge', 'wb'); f.truncate(1 << 40); f.seek((1 << 40) - 3); f.write(b'end'); f.close()")
    assert files.get("huge", offset=(1 << 40) - 4, length=100) == b"\0end"


def test_a_limit_on_the_size(call: Any) -> None:
    """A session's limit on file sizes holds for files that clients send; what was there stays, and nothing else."""
    made = call("session.create", {"limits": {"fileSizeBytes": 1000}})
    files = filer(call, call.running, made["id"])
    try:
        files.put("a", b"x" * 1000)
        with pytest.raises(LimitExceeded, match=r"1000 bytes.*fileSizeBytes"):
            files.put("a", b"y" * 1001)
        with pytest.raises(LimitExceeded, match="fileSizeBytes"):
            files.put("b", b"y" * 9_000_000)
        assert files.get("a") == b"x" * 1000
        assert listed(call, made["id"]) == ["a"]
    finally:
        files.close()
        call("session.delete", {"id": made["id"]})


def test_an_upload_that_breaks_off(call: Any, session: str, files: Filer) -> None:
    """A client that goes away in the middle of a file replaces nothing."""
    files.put("a", b"whole")
    for _ in range(5):
        filer(call, call.running, session).break_off("a", b"half")
    time.sleep(0.3)  # what would come too late must not come at all
    assert files.get("a") == b"whole"


def test_a_size_that_was_announced(call: Caller, session: str, files: Filer) -> None:
    """A file that turns out to be longer or shorter than its sender said is refused, and nothing is replaced."""
    files.put("a", b"whole", sizeBytes=5)
    for size in (4, 6):
        with pytest.raises(InvalidRequest, match=f"sizeBytes says {size}"):
            files.put("a", b"other", sizeBytes=size)
    assert files.get("a") == b"whole"
    assert listed(call, session) == ["a"]


def test_files_are_use_of_a_session(call: Any) -> None:
    """A session that ends when it is not used does not end while a file is under way."""
    made = call("session.create", {"idleTimeout": 2})
    files = filer(call, call.running, made["id"])
    try:
        files.put("a", slowly([b"one", b"two"], 2.5))
        assert files.get("a") == b"onetwo"
    finally:
        files.close()


def slowly(pieces: list[bytes], pause: float) -> Iterator[bytes]:
    for number, piece in enumerate(pieces):
        time.sleep(pause if number else 0)
        yield piece
