"""A small server: real wardens and sessions of every CPython at hand, driven over their own protocols."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import mmap
import os
import re
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import venvd_contract
import venvd_worker
from venvd_contract.errors import NotFound, from_fields
from venvd_contract.framing import Buffer, dump_line
from venvd_contract.internal import PROTOCOL, SECRET, SOCKET
from venvd_contract.internal.segments import create_sealed
from venvd_contract.internal.slots import AT, SIZE
from venvd_worker.archive import build

SLOTS = 16
PATIENCE = 120.0


@functools.cache
def found_pythons() -> list[str]:
    """`VENVD_TEST_PYTHONS` (paths, separated by colons), else the oldest and the newest found and the running one."""
    named = os.environ.get("VENVD_TEST_PYTHONS")
    if named:
        return named.split(":")
    folders = [*os.environ.get("PATH", "").split(":"), *map(str, Path("~/.pyenv/versions").expanduser().glob("*/bin"))]
    by_minor: dict[int, str] = {}
    for folder in folders:
        for minor in range(9, 20):
            path = Path(folder) / f"python3.{minor}"
            if path.is_file() and "shims" not in folder and _runs(path):
                by_minor.setdefault(minor, str(path))
    running = sys.version_info.minor
    # not the environment of the tests, in which the worker's own packages are installed
    by_minor[running] = str(Path(sys.base_prefix) / "bin" / f"python3.{running}")
    minors = sorted(by_minor)
    return [by_minor[minor] for minor in dict.fromkeys((minors[0], running, minors[-1]))]


def _runs(path: Path) -> bool:
    code = "import sys, ctypes; assert sys.version_info[:2] >= (3, 9)"
    return subprocess.run([path, "-I", "-c", code], check=False, capture_output=True).returncode == 0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "python" in metafunc.fixturenames:
        paths = found_pythons()
        names = [(re.search(r"3\.\d+", os.path.realpath(path)) or ["?"])[0] for path in paths]
        marks = _marks(len(paths), metafunc.module.__name__.rpartition(".")[2] in OF_PROCESSES)
        pythons = [pytest.param(path, marks=mark) for path, mark in zip(paths, marks, strict=True)]
        metafunc.parametrize("python", pythons, ids=names, scope="module")


OF_PROCESSES = {"test_worker_zygote", "test_worker_fork_pool", "test_worker_warden", "test_worker_ending"}
"""Modules about processes: what these do is the same in each interpreter, and `make test` takes the newest alone."""


def _marks(count: int, of_processes: bool) -> list[tuple[pytest.MarkDecorator, ...]]:
    """`make test-fast` takes the newest interpreter, `make test` also the oldest, `make test-long` all others."""
    oldest = pytest.mark.long if of_processes else pytest.mark.slow
    return [() if index == count - 1 else (pytest.mark.long if index else oldest,) for index in range(count)]


class Slot:
    """What the server reads of a slot."""

    def __init__(self, memory: mmap.mmap, index: int) -> None:
        self._memory = memory
        self._base = index * SIZE

    def _read(self, form: str, field: str) -> Any:
        return struct.unpack_from(form, self._memory, self._base + AT[field])[0]

    state = property(lambda self: self._read("<I", "state"))
    sequence = property(lambda self: self._read("<Q", "sequence"))
    started = property(lambda self: self._read("<d", "started"))
    deadline = property(lambda self: self._read("<d", "deadline"))
    request = property(lambda self: self._read("<Q", "request"))
    calls = property(lambda self: self._read("<Q", "answered"))
    errors = property(lambda self: self._read("<Q", "failed"))
    spins = property(lambda self: self._read("<B", "spins"))
    handles = property(lambda self: self._read("<Q", "handles"))
    heartbeat = property(lambda self: self._read("<Q", "heartbeat"))
    command = property(lambda self: self._read("24s", "command").rstrip(b"\0").decode())


class Session:
    """A session's stream, as the server holds it."""

    def __init__(
        self, host: Host, name: str, pid: int, stream: socket.socket, supply: socket.socket, index: int, slot: Slot
    ) -> None:
        self.host = host
        self.name = name
        self.pid = pid
        self.index = index
        self.slot = slot
        self.events: list[dict[str, Any]] = []
        self._numbers = itertools.count(1)
        self.supply = supply
        self.segments: dict[str, int] = {}
        """Descriptors of the segments that it was given, by name."""
        self.gone: list[str] = []
        """Names of the segments that it gave up."""
        self._sock = stream
        self._sock.settimeout(PATIENCE)
        self._buffer = Buffer(1 << 30)

    @property
    def files(self) -> Path:
        """Where it works, as long as its code stays there."""
        return Path(os.readlink(f"/proc/{self.pid}/cwd"))

    def __call__(self, command: str, payload: Any = None, **fields: Any) -> Any:
        """The result of a call; its error is raised."""
        number = self.send(command, payload, **fields)
        reply = self.reply()
        assert reply["id"] == number
        if "error" in reply:
            raise from_fields(reply)
        return reply["result"]

    def eval(self, expression: str, **locals_: Any) -> Any:
        """The value of an expression, which must be plain."""
        return self("eval", {"expression": expression, "locals": locals_})["value"]

    def held(self, expression: str) -> str:
        """The handle of what an expression gives."""
        return str(self("eval", {"expression": expression})["handleId"])

    def send(self, command: str, payload: Any = None, **fields: Any) -> int:
        number = next(self._numbers)
        self.write(dump_line({"id": number, "command": command, "payload": payload or {}, **fields}))
        return number

    def write(self, data: bytes) -> None:
        self._sock.sendall(data)

    def reply(self) -> Any:
        """The next line that is no event; events are kept."""
        while True:
            message = self.line()
            if "event" not in message:
                return message
            self.events.append(message)

    def line(self) -> Any:
        while True:
            line = self._buffer.line()
            if line is not None:
                return json.loads(line)
            while self.supply in select.select([self.supply, self._sock], [], [], PATIENCE)[0] and self.read_supply():
                pass
            data = self._sock.recv(1 << 16)
            if not data:
                raise EOFError("the session closed its stream")
            self._buffer.feed(data)

    def bytes(self, size: int) -> bytes:
        """The next bytes, which are no line."""
        while True:
            taken = self._buffer.take(size)
            if taken is not None:
                return taken
            data = self._sock.recv(1 << 16)
            if not data:
                raise EOFError("the session closed its stream")
            self._buffer.feed(data)

    def read_supply(self) -> bool:
        """Read what it says about segments, and give it those that it asks for; false where it has ended."""
        data = self.supply.recv(1 << 16)
        if not data:
            return False
        packet = json.loads(data)
        self.gone += packet.get("gone", ())
        for name in packet.get("gone", ()):
            os.close(self.segments.pop(name))
        if "want" in packet:
            name = f"seg-{next(self._numbers)}"
            self.segments[name] = create_sealed(name, packet["want"])
            answer = json.dumps({"name": name, "size": packet["want"]}).encode()
            socket.send_fds(self.supply, [answer], [self.segments[name]])
        return True

    def shown(self, text: str) -> None:
        """Wait until a call that streams has printed something."""
        while text not in "".join(str(event["data"]) for event in self.events):
            self.events.append(self.line())

    def running(self) -> None:
        """Wait until the session says that a call runs."""
        wait_for(lambda: self.slot.state == 2)

    def interrupt(self, reason: str = "timeout", grace: float = 5.0) -> None:
        self.running()
        self.host.request("interrupt", session=self.name, sequence=self.slot.sequence, reason=reason, grace=grace)

    def exited(self) -> dict[str, Any]:
        """The data of the event that tells of its end."""
        return self.host.event(lambda event: event["event"] == "exited" and event["data"]["pid"] == self.pid)

    def close(self) -> None:
        self._sock.close()
        self.supply.close()
        for descriptor in self.segments.values():
            os.close(descriptor)
        self.segments.clear()


class Host:
    """A warden, and the server's connection to it."""

    def __init__(
        self,
        python: str,
        archive: Path,
        directory: Path,
        env: dict[str, str],
        *options: str,
        within: Sequence[str] = (),
        greet: bool = True,
    ) -> None:
        self.directory = directory
        self.work = directory / "work"
        warden = [python, "-I", "-S", archive, "warden", "--channel", directory, "--work-dir", self.work, *options]
        self.secret = secrets.token_hex(8)
        listener = _listen(directory / SOCKET)
        (directory / SECRET).write_text(self.secret)
        self.process = subprocess.Popen(
            [*within, *warden],
            env={"PATH": os.environ["PATH"], **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._numbers = itertools.count(1)
        self._events: list[dict[str, Any]] = []
        self._replies: dict[int, dict[str, Any]] = {}
        self._free = set(range(SLOTS))
        self._slots = os.memfd_create("slots", os.MFD_ALLOW_SEALING)
        os.ftruncate(self._slots, SIZE * SLOTS)
        self._memory = mmap.mmap(self._slots, SIZE * SLOTS)
        self.sessions: list[Session] = []
        with listener:
            self.sock, _ = listener.accept()
        self.sock.settimeout(PATIENCE)
        assert json.loads(self.sock.recv(1 << 16)) == {"event": "join", "data": {"secret": self.secret}}
        for name in (SOCKET, SECRET):
            (directory / name).unlink()
        if greet:
            fields = {"protocol": PROTOCOL, "slots": SLOTS, "grace": 1.0, "spin": 50}
            self.hello = self.request("hello", descriptors=[self._slots], **fields)
        # `unshare` stays where it was, and the warden is its child
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.pid = int(task.read_text()) if "unshare" in within else self.process.pid

    def request(self, command: str, /, *, descriptors: Sequence[int] = (), **fields: Any) -> Any:
        number = next(self._numbers)
        packet = json.dumps({"id": number, "command": command, "data": fields}).encode()
        socket.send_fds(self.sock, [packet], descriptors)
        while number not in self._replies:
            self._receive()
        reply = self._replies.pop(number)
        if "error" in reply:
            raise from_fields(reply)
        return reply["result"]

    def event(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            for event in self._events:
                if wanted(event):
                    self._events.remove(event)
                    return dict(event["data"])
            self._receive()

    def held(self) -> list[dict[str, Any]]:
        """The events that no test has read yet."""
        return self._events

    def _receive(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self.sock, 1 << 18, 4)
        if not data:
            raise EOFError("the warden went away")
        assert not descriptors, "descriptors travel inwards only"
        message = json.loads(data)
        if "event" in message:
            self._events.append(message)
        else:
            self._replies[message["id"]] = message

    def start(
        self,
        name: str | None = None,
        *,
        env: dict[str, str] | None = None,
        lease: float = 0,
        compat: bool = True,
        standby: bool = False,
        **limits: int,
    ) -> Session:
        index = self._free.pop()
        self._memory[index * SIZE : (index + 1) * SIZE] = bytes(SIZE)
        name = name or f"s{index}"
        fields = {
            "session": name, "slot": index, "limits": limits, "env": env or {}, "lease": lease, "compat": compat,
            "standby": standby,
        }  # fmt: skip
        stream, stream_end = socket.socketpair()
        supply, supply_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with stream_end, supply_end:
            result = self.request("start", descriptors=[stream_end.fileno(), supply_end.fileno()], **fields)
        slot = Slot(self._memory, index)
        self.sessions.append(Session(self, name, result["pid"], stream, supply, index, slot))
        return self.sessions[-1]

    def kill(self, session: Session) -> None:
        with contextlib.suppress(NotFound):
            self.request("kill", session=session.name, reason="the test is over")
        self._free.add(session.index)

    def stop(self) -> str:
        """End the warden; what it and its sessions wrote to its output."""
        os.kill(self.pid, signal.SIGTERM)
        output, _ = self.process.communicate(timeout=PATIENCE)
        self.sock.close()
        return output.decode()


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(PATIENCE)
    return listener


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until something holds; what it gave."""
    deadline = time.monotonic() + PATIENCE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Tools:
    """What tests share, where they cannot import it."""

    wait_for = staticmethod(wait_for)
    alive = staticmethod(alive)


@pytest.fixture
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Finds the archive that a CPython has made: its bytecode halves the start of a warden."""

    @functools.cache
    def find(python: str) -> Path:
        sources = [str(Path(package.__path__[0]).parent) for package in (venvd_contract, venvd_worker)]
        code = f"import sys; sys.path[:0] = {sources}; from venvd_worker import archive; from pathlib import Path\n"
        code += "print(archive.build(Path(sys.argv[1])))"
        command = [python, "-I", "-c", code, str(tmp_path_factory.mktemp("archive"))]
        return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())

    return find


@pytest.fixture
def new_host(python: str, archives: Callable[[str], Path], tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Starts wardens for one test."""
    made: list[Host] = []

    def start(
        *options: str, within: Sequence[str] = (), greet: bool = True, archive: Path | None = None, **env: str
    ) -> Host:
        directory = tmp_path / f"channel{len(made)}"
        directory.mkdir(exist_ok=True)
        made.append(Host(python, archive or archives(python), directory, env, *options, within=within, greet=greet))
        return made[-1]

    yield start
    for host in made:
        for session in host.sessions:
            session.close()
        if host.process.poll() is None:
            host.stop()
        with contextlib.suppress(ValueError):
            host.process.communicate(timeout=PATIENCE)
        host.sock.close()


@pytest.fixture(scope="module")
def host(python: str, archives: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One warden for a module's tests."""
    running = Host(python, archives(python), tmp_path_factory.mktemp("channel"), {})
    yield running
    assert running.process.poll() is None, "the warden died"
    running.stop()


@pytest.fixture
def start(host: Host) -> Iterator[Callable[..., Session]]:
    """Starts sessions that end with the test."""
    made: list[Session] = []

    def begin(*arguments: Any, **fields: Any) -> Session:
        made.append(host.start(*arguments, **fields))
        return made[-1]

    yield begin
    for session in made:
        host.kill(session)
        session.close()


@pytest.fixture
def session(start: Callable[..., Session]) -> Session:
    """A session of the test's own."""
    return start()


@pytest.fixture(scope="module")
def shared(host: Host) -> Iterator[Session]:
    """One session for tests that leave it as it was."""
    session = host.start("shared")
    yield session
    host.kill(session)
    session.close()
