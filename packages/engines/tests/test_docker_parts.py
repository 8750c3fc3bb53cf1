"""The parts of the docker engine that need no engine."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
import socket
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
import requests

from venvd_contract.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    NotFound,
    Unavailable,
    VenvdError,
)
from venvd_engines.docker import cancellable, labels, server_images
from venvd_engines.docker.backends import Backends
from venvd_engines.docker.client import DockerClient
from venvd_engines.docker.engine import DockerEngine
from venvd_engines.docker.key_files import FILE, MANAGES_FILE, KeyFiles
from venvd_engines.docker.ports import PortSearch
from venvd_engines.docker.socket_directories import SocketDirectories
from venvd_engines.docker.translation import translate_errors
from venvd_engines.engine import EngineSettings, LaunchRecord, PartState, Port

ROOT = Path(__file__).resolve().parents[3]


class Heedless:
    """Progress that is never cancelled; `cancel` changes that."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.lines: list[str] = []

    def phase(self, name: str) -> None:
        self.lines.append(name)

    def log(self, line: str) -> None:
        self.lines.append(line)

    def check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("cancelled by the test")


def settings(tmp_path: Path, **changes: object) -> EngineSettings:
    given = {"home": tmp_path, "home_id": "test-parts", "run_dir": tmp_path / "run", **changes}
    return EngineSettings(**given)  # type: ignore[arg-type]


# ---- errors ------------------------------------------------------------------------------------------------------


def refusal(status: int, said: str) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("refused", response=response, explanation=said)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFound), (409, Conflict), (403, Unavailable), (400, Internal), (500, Unavailable), (503, Unavailable)],
)
def test_what_the_engine_refuses_has_a_code(status: int, kind: type[VenvdError]) -> None:
    """Each status of the Engine API becomes one error of the contract, with what was being done and what was said."""
    with pytest.raises(kind, match="could not dance: no room"), translate_errors("dance"):
        raise refusal(status, "no room")


def test_errors_of_the_contract_pass() -> None:
    """What is one of the contract's errors already is raised as it is."""
    error = InvalidRequest("as it is")
    with pytest.raises(InvalidRequest) as caught, translate_errors("dance"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EROFS, os.strerror(errno.EROFS), "/venvd"),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/venvd"),
    ],
)
def test_files_of_this_machine_are_not_the_engine(error: OSError) -> None:
    """A full or read-only disk is told as such, with the file; the engine answers all the while."""
    with (
        pytest.raises(Unavailable, match=f"could not dance on its own machine: {error.strerror}"),
        translate_errors("dance"),
    ):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
        requests.ConnectionError("gone"),
        TimeoutError("slow"),
    ],
)
def test_an_engine_that_is_away_is_told(error: OSError) -> None:
    """What fails at the engine's socket is the engine's absence."""
    with pytest.raises(Unavailable, match="the Docker Engine does not answer"), translate_errors("dance"):
        raise error


@pytest.fixture
def sdk_leaves_sockets() -> Iterator[None]:
    """The SDK does not close a socket on which it could not connect; collect it where that is expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.mark.usefixtures("sdk_leaves_sockets")
def test_no_engine_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing listens at DOCKER_HOST, every method says so, and a later try connects anew."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    engine = DockerEngine(settings(tmp_path))
    for call in (engine.check, engine.list_owned, engine.sweep, lambda: engine.find_image("0")):
        with pytest.raises(Unavailable, match="No such file"):
            call()


@pytest.mark.usefixtures("sdk_leaves_sockets")
def test_an_engine_that_hangs_up_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that accepts and closes is an engine that does not answer, not a defect."""
    path = tmp_path / "rude.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def hang_up() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        with pytest.raises(Unavailable):
            DockerEngine(settings(tmp_path)).check()
        listener.shutdown(socket.SHUT_RDWR)


# ---- waiting -----------------------------------------------------------------------------------------------------


def test_items_come_as_they_are() -> None:
    """A stream's items come in order, and its end is the end."""
    assert list(cancellable.iterate(iter("abc"), Heedless(), seconds=30, doing="read")) == ["a", "b", "c"]


def test_a_silent_stream_can_be_cancelled() -> None:
    """Cancelling ends the wait for an item that does not come."""
    progress, never = Heedless(), threading.Event()

    def silent() -> Iterator[int]:
        yield 1
        never.wait(30)

    items = cancellable.iterate(silent(), progress, seconds=30, doing="read")
    assert next(items) == 1
    progress.cancelled.set()
    with pytest.raises(Cancelled):
        next(items)
    never.set()


def test_a_stream_without_end_runs_into_its_deadline() -> None:
    """Seconds bound the whole stream, also where items keep coming."""

    def endless() -> Iterator[int]:
        while True:
            yield 1

    with pytest.raises(DeadlineExceeded, match="count"):
        deque(cancellable.iterate(endless(), Heedless(), seconds=0.3, doing="count"), maxlen=0)


def test_an_error_of_the_stream_is_raised_where_it_is_read() -> None:
    """What the stream's thread meets reaches the reader."""

    def broken() -> Iterator[int]:
        yield 1
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"):
        list(cancellable.iterate(broken(), Heedless(), seconds=30, doing="read"))


def test_a_late_result_is_taken_care_of() -> None:
    """What a call returns after it was given up is handed to `late`."""
    progress, go, taken = Heedless(), threading.Event(), threading.Event()
    released: list[str] = []

    def call() -> str:
        go.wait(30)
        return "late"

    def late(value: str) -> None:
        released.append(value)
        taken.set()

    progress.cancelled.set()
    with pytest.raises(Cancelled):
        cancellable.call(call, progress, seconds=30, doing="wait", discard=late)
    go.set()
    assert taken.wait(30)
    assert released == ["late"]


def test_a_call_that_ends_at_the_end_of_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result counts, and its own TimeoutError too."""

    class Ending(Future[str]):
        def result(self, timeout: float | None = None) -> str:
            if timeout is not None:
                super().exception()
                raise TimeoutError
            return super().result()

    def fail() -> str:
        raise TimeoutError("of the call")

    monkeypatch.setattr(cancellable, "Future", Ending)
    discarded: list[str] = []
    ended = cancellable.call(lambda: "ended", Heedless(), seconds=30, doing="wait", discard=discarded.append)
    assert ended == "ended"
    with pytest.raises(TimeoutError, match="of the call"):
        cancellable.call(fail, Heedless(), seconds=30, doing="wait", discard=discarded.append)
    assert discarded == []


def test_lines_are_cut_across_chunks() -> None:
    """Lines are whole whatever the chunks were; what is no UTF-8 does not break them."""
    lines = cancellable.LineSplitter()
    assert lines.feed(b"one\ntw") == ["one"]
    assert lines.feed(b"o\r\n\xff\nrest") == ["two", "\N{REPLACEMENT CHARACTER}"]
    assert lines.end() == ["rest"]
    assert lines.end() == []


# ---- ports -------------------------------------------------------------------------------------------------------


def test_known_ports_are_passed_over() -> None:
    """The first port from the wanted one on that is not known to be taken is chosen, each once."""
    ports = (Port("main", 1, 40000), Port("http", 2, 40000))
    assert PortSearch("127.0.0.1", ports, {40000, 40001}, probe=False).choose() == {1: 40002, 2: 40003}


def test_an_exact_port_is_chosen_before_another_takes_its_number() -> None:
    """A port that may be any leaves the number that another port must have."""
    ports = (Port("main", 1, 40000), Port("http", 2, 40000, exact=True))
    assert PortSearch("127.0.0.1", ports, (), probe=False).choose() == {1: 40001, 2: 40000}


@pytest.mark.parametrize(
    "said",
    [
        "driver failed programming external connectivity: Bind for 127.0.0.1:40000 failed: port is already allocated",
        "Error starting userland proxy: listen tcp4 127.0.0.1:40000: bind: address already in use",
        "failed to bind host port for 127.0.0.1:40000:172.17.0.2:5678/tcp: address already in use",
    ],
)
def test_a_port_that_the_engine_finds_taken_is_not_chosen_again(said: str) -> None:
    """Whatever an engine's words for it, the search goes on after the port that they name."""
    search = PortSearch("127.0.0.1", (Port("main", 1, 40000), Port("http", 2, 41000)), (), probe=False)
    assert search.exclude(search.choose(), said)
    assert search.choose() == {1: 40001, 2: 41000}


def test_other_failures_are_no_taken_port() -> None:
    """An error that is about something else does not make the search go on."""
    search = PortSearch("127.0.0.1", (Port("main", 1, 40000),), (), probe=False)
    assert not search.exclude(search.choose(), "OCI runtime create failed: no such file or directory")


def test_no_port_left_is_a_conflict() -> None:
    """A search that comes to the last port says from where on none was free."""
    with pytest.raises(Conflict, match="65535"):
        PortSearch("127.0.0.1", (Port("main", 1, 65535),), {65535}, probe=False).choose()


# ---- sources of servers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["http", "rpc"])
def test_a_servers_context_is_what_it_stands_on(kind: str) -> None:
    """The context holds the service, the packages that it needs and nothing else."""
    names = server_images._read_context(ROOT, kind)
    packages = {name.split("/")[1] for name in names if name.startswith("packages/")}
    services = {name.split("/")[1] for name in names if name.startswith("services/")}
    assert packages == {"contract", "proto", "client", "core", "egress", "http"}
    assert "pyproject.toml" in names
    assert services == {f"{kind}-backend"}
    assert f"services/{kind}-backend/requirements.txt" in names
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


def test_the_digest_follows_content_and_base() -> None:
    """Equal sources have one digest; another file, another content or another base gives another."""
    digests = {
        server_images._digest({"a": b"1"}, None),
        server_images._digest({"a": b"2"}, None),
        server_images._digest({"b": b"1"}, None),
        server_images._digest({"a": b"1", "b": b""}, None),
        server_images._digest({"a": b"1"}, "base:{version}"),
    }
    assert len(digests) == 5
    assert server_images._digest({"a": b"1", "b": b"2"}, None) == server_images._digest({"b": b"2", "a": b"1"}, None)


def test_a_server_is_identified_by_its_sources(tmp_path: Path) -> None:
    """Changed sources give another identity to the next process, and a home without sources has none."""
    source = tmp_path / "source"
    for name in ("pyproject.toml", server_images.BUILD_REQUIREMENTS):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    for name in ("contract", "proto", "client", "core", "egress", "http"):
        shutil.copytree(ROOT / "packages" / name, source / "packages" / name)
    for kind in ("http", "rpc"):
        shutil.copytree(ROOT / "services" / f"{kind}-backend", source / "services" / f"{kind}-backend")

    def identify(kind: str, source_dir: Path | None = source) -> str | None:
        return DockerEngine(settings(tmp_path, source_dir=source_dir)).identify_server(kind)

    before = identify("http"), identify("rpc")
    assert before == (identify("http"), identify("rpc"))
    assert before[0] != before[1]
    assert {len(each or "") <= 32 for each in before} == {True}
    (source / "services/http-backend/added.py").write_text("")
    assert (identify("http") != before[0], identify("rpc")) == (True, before[1])
    assert identify("http", None) is None


# ---- directories of sockets --------------------------------------------------------------------------------------


def test_a_socket_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    """A run directory below which no socket fits is named, with the setting that changes it."""
    directories = SocketDirectories(DockerClient(settings(tmp_path, run_dir=tmp_path / ("x" * 120))))
    with pytest.raises(InvalidRequest, match="VENVD_RUN_DIR"):
        directories.path("short")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "keys-test-parts", "controller-other"])
def test_a_socket_directory_stays_below_the_run_directory(tmp_path: Path, name: str) -> None:
    """A name that is a path leads nowhere, and none is that of venvd's own directories."""
    with pytest.raises(InvalidRequest):
        SocketDirectories(DockerClient(settings(tmp_path))).path(name)


# ---- key files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "state", "fails"),
    [
        ({"keys": True}, "running", True),
        ({"keys": True}, "missing", False),
        ({}, "running", False),  # an older venvd started it
    ],
)
def test_keys_without_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, bool], state: str, *, fails: bool
) -> None:
    """A running server whose key file is gone does not have its new keys, and the engine says so."""
    client = DockerClient(settings(tmp_path))
    unused: Any = None
    backends = Backends(client, unused, unused, unused, unused, SocketDirectories(client), unused)
    monkeypatch.setattr(backends, "_inspect_part", lambda _record, _part: PartState(state))
    record = LaunchRecord("docker", "abc", "", "", data)
    with pytest.raises(Unavailable, match="key file") if fails else contextlib.nullcontext():
        backends.write_keys(record, b"{}")


def test_the_group_of_the_servers_reads_their_keys_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directory and files are for the group of the servers, and for no others."""
    monkeypatch.setattr(labels, "SHARED_GID", os.getgid())
    settings = EngineSettings(home=tmp_path, home_id="home", run_dir=tmp_path / "run")
    client: Any = SimpleNamespace(settings=settings)
    files = KeyFiles(client, SocketDirectories(client))
    umask = os.umask(0o077)
    try:
        files.make("launch", b"{}", "vd_key", "image")
        files.replace("launch", b"[]")
    finally:
        os.umask(umask)
    directory = tmp_path / "run" / "keys-home" / "launch"
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (directory.parent, directory, *directory.iterdir())}
    assert modes == {"keys-home": 0o2750, "launch": 0o750, FILE: 0o640, MANAGES_FILE: 0o640}
    assert {path.stat().st_gid for path in directory.iterdir()} == {os.getgid()}
    assert [(directory / name).read_text() for name in (FILE, MANAGES_FILE)] == ["[]", "vd_key"]
