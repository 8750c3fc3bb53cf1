"""File processes: what they hold, what they leave alone, when they end, and what they do with files."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from venvd_contract.errors import Busy, InvalidRequest, NotFound, VenvdError, from_fields

HEAD = struct.Struct("!cI")
LARGEST = 1 << 30


class Transfer:
    """The server's end of one file transfer."""

    def __init__(
        self, host: Any, session: Any, command: str, *, timeout: float = 60, largest: int = LARGEST, **payload: Any
    ) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(30)
        task = {"command": command, "payload": payload, "largest": largest, "timeout": timeout}
        try:
            with theirs:
                sent = [theirs.fileno()]
                self.pid = host.request("file", session=session.name, descriptors=sent, **task)["pid"]
        except VenvdError:
            self.sock.close()
            raise

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := self.sock.recv(size - len(data))):
            data += more
        return data

    def answer(self) -> Any:
        kind, size = HEAD.unpack(self.read(HEAD.size))
        reply = json.loads(self.read(size))
        if kind == b"e":
            raise from_fields(reply)
        assert kind == b"r"
        return reply

    def send(self, data: bytes) -> None:
        self.sock.sendall(HEAD.pack(b"d", len(data)) + data)

    def end(self) -> Any:
        self.sock.sendall(HEAD.pack(b"z", 0))
        return self.answer()

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def ask(host: Any, session: Any) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def asking(command: str, **payload: Any) -> Transfer:
            made = Transfer(host, session, command, **payload)
            stack.callback(made.close)
            return made

        yield asking


def test_a_file_goes_and_comes(session: Any, ask: Any) -> None:
    """What a file process stores is there for code and for the next one; it ends when it is done."""
    upload = ask("file.put", path="a/b")
    assert upload.answer() == {}
    upload.send(b"12345")
    assert upload.end()["sizeBytes"] == 5
    assert session.eval("open('a/b').read()") == "12345"
    download = ask("file.get", path="a/b", offset=1, length=3)
    assert download.answer()["length"] == 3
    assert download.read(10) == b"234"
    assert [each["path"] for each in ask("file.list", recursive=True).answer()["files"]] == ["a", "a/b"]
    assert ask("file.delete", path="a", recursive=True).answer() == {"success": True}


KEEPING = """
import os, select, socket, sys
from venvd_worker.files import process
ours, theirs = socket.socketpair()
others = [*socket.socketpair(), select.epoll(), open("/dev/null"), *os.pipe()]
os.dup2(0, 1000)
with process.keep_only(theirs.fileno()) as kept:
    print(kept.fileno(), [number for number in range(3, 2000) if os.path.exists("/proc/self/fd/%d" % number)])
    sys.stdout.flush()
    os._exit(0)
"""


def test_a_file_process_holds_nothing_of_the_wardens() -> None:
    """Of all descriptors that a fork of the warden has, it keeps its connection alone."""
    done = subprocess.run([sys.executable, "-c", KEEPING], capture_output=True, text=True, check=True)
    assert done.stdout == "3 [3]\n"


def test_a_server_that_gives_up(session: Any, ask: Any, tools: Any) -> None:
    """Where its connection ends in the middle, the file process undoes what it began, and ends."""
    transfer = ask("file.put", path="x")
    transfer.answer()
    transfer.send(b"half")
    transfer.close()
    tools.wait_for(lambda: not tools.alive(transfer.pid))
    assert session.eval("__import__('os').listdir()") == []


def test_the_end_of_the_session(host: Any, session: Any, ask: Any, tools: Any) -> None:
    """FileTransfers of a session end with it, and those of others go on."""
    other = host.start()
    theirs = Transfer(host, other, "file.put", path="x")
    theirs.answer()
    transfer = ask("file.put", path="x")
    transfer.answer()
    host.kill(session)
    tools.wait_for(lambda: not tools.alive(transfer.pid))
    theirs.send(b"1")
    assert theirs.end()["sizeBytes"] == 1
    theirs.close()
    with pytest.raises(NotFound):
        Transfer(host, session, "file.list")
    host.kill(other)
    other.close()


def test_file_processes_are_no_strays(host: Any, session: Any, ask: Any) -> None:
    """When another session ends and what it left is killed, file_transfers under way are not."""
    transfer = ask("file.put", path="x")
    transfer.answer()
    other = host.start()
    other.eval("__import__('subprocess').Popen(['sleep', '1000'], start_new_session=True).pid")
    host.kill(other)
    other.exited()
    other.close()
    transfer.send(b"1")
    assert transfer.end()["sizeBytes"] == 1


def test_a_file_process_that_is_stopped_or_killed(ask: Any, tools: Any) -> None:
    """A file process that is stopped is killed, so that no caller waits; one that is killed has ended."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        transfer = ask("file.put", path="x")
        transfer.answer()
        os.kill(transfer.pid, number)
        assert transfer.read(1) == b""
        tools.wait_for(lambda pid=transfer.pid: not tools.alive(pid))


def test_there_are_only_so_many(session: Any, ask: Any, tools: Any) -> None:
    """A file process too many is refused; when one ends there is room again."""
    file_transfers = [ask("file.put", path=f"{number}") for number in range(32)]
    with pytest.raises(Busy, match="32"):
        ask("file.list")
    file_transfers[0].close()
    tools.wait_for(lambda: not tools.alive(file_transfers[0].pid))

    def room() -> bool:
        with contextlib.suppress(Busy):
            return bool(ask("file.list").answer())
        return False

    tools.wait_for(room)


def test_its_time_is_limited(ask: Any, tools: Any) -> None:
    """A file process that takes longer than it may says so, undoes what it began, and ends."""
    transfer = ask("file.put", timeout=0.3, path="x")
    transfer.answer()
    with pytest.raises(VenvdError, match="time"):
        transfer.answer()
    transfer.close()
    tools.wait_for(lambda: not tools.alive(transfer.pid))
    assert ask("file.list").answer()["files"] == []


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"command": "file.burn", "largest": 1, "payload": {}},
        {"command": "file.get", "payload": {"path": "x"}},
        {"command": "file.get", "largest": 1, "timeout": "soon", "payload": {}},
    ],
)
def test_tasks_that_are_none(host: Any, session: Any, task: dict[str, Any]) -> None:
    """The warden refuses a task that makes no sense."""
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(InvalidRequest):
        host.request("file", session=session.name, descriptors=[theirs.fileno()], **task)


def test_a_task_without_a_connection(host: Any, session: Any) -> None:
    """The warden refuses a task that brings no connection."""
    with pytest.raises(InvalidRequest, match="descriptor"):
        host.request("file", session=session.name, command="file.list", largest=1)


@pytest.mark.parametrize(
    ("command", "payload", "says"),
    [
        ("file.get", {}, "path"),
        ("file.get", {"path": 5}, "path"),
        ("file.get", {"pathBytes": "?"}, "base64"),
        ("file.get", {"path": "x", "offset": -1}, "offset"),
        ("file.put", {"path": "x", "parents": "no"}, "parents"),
        ("file.list", {"limit": "all"}, "limit"),
        ("file.list", {"after": "elsewhere"}, "after"),
        ("file.delete", {"path": ""}, "empty"),
    ],
)
def test_requests_that_are_wrong(ask: Any, command: str, payload: dict[str, Any], says: str) -> None:
    """A request with wrong fields is answered with which."""
    with pytest.raises(InvalidRequest, match=says):
        ask(command, **payload).answer()


def test_a_directory_that_code_took_away(host: Any, session: Any, ask: Any) -> None:
    """Where code replaced its working directory, with a link even, there are no files, and nothing else is seen."""
    files = session.eval("__import__('os').getcwd()")
    session.eval(f"import os; os.rename({files!r}, {files + '.old'!r})")
    with pytest.raises(NotFound, match="working directory"):
        ask("file.list").answer()
    session.eval(f"import os; os.symlink('/etc', {files!r})")
    with pytest.raises(NotFound, match="working directory"):
        ask("file.get", path="passwd").answer()


def test_a_limit_holds_in_the_kernel_too(ask: Any) -> None:
    """A file process cannot write a larger file than it was told, whatever it does."""
    transfer = ask("file.put", path="x", largest=100)
    transfer.answer()
    assert resource.prlimit(transfer.pid, resource.RLIMIT_FSIZE) == (100, 100)
    transfer.send(b"y" * 101)
    with pytest.raises(VenvdError, match=r"larger than 100 bytes.*VENVD_MAX_FILE_BYTES"):
        transfer.end()
