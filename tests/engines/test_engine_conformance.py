"""What every engine does the same, written once against the interface."""

from __future__ import annotations

import dataclasses
import json
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness.access_keys import render_keys
from harness.bench import PYTHON, Bench, evaluate
from harness.certificates import make_authority, make_certificate
from harness.stack import Quiet, wait_ready
from harness.waiting import wait_until

from venvd_contract.errors import Cancelled, Conflict, InvalidRequest, NotFound, Unauthenticated, VenvdError
from venvd_engines.engine import Image, LaunchRecord, Port, VenvBuild

pytestmark = pytest.mark.network


class CancelledAt(Quiet):
    """Progress of work that is cancelled once a phase begins."""

    def __init__(self, phase: str) -> None:
        super().__init__()
        self._phase = phase
        self._cancelled = False

    def phase(self, name: str) -> None:
        super().phase(name)
        self._cancelled = self._cancelled or name == self._phase

    def check(self) -> None:
        if self._cancelled:
            raise Cancelled("cancelled by the test")


# ---- runtimes and venvs ------------------------------------------------------------------------------------------


def test_an_engine_that_was_chosen_answers(bench: Bench) -> None:
    """`check` raises nothing where the engine can be used."""
    bench.engine.check()


def test_gaps_are_told(bench: Bench) -> None:
    """An engine that lacks a guard has a sentence for the operator about it."""
    found = bench.engine.capabilities()
    guards = (found.network_isolation, found.filesystem_isolation, found.memory_wall)
    assert found.gaps or all(guards)


def test_a_minor_version_becomes_an_exact_one(bench: Bench) -> None:
    """A runtime asked for as 3.x is resolved to a patch release of it."""
    found = bench.runtime()
    assert found.version == PYTHON
    assert found.resolved.startswith(f"{PYTHON}.")


def test_an_exact_version_is_kept(bench: Bench) -> None:
    """The version that a runtime was resolved to resolves to itself, and to the same base."""
    first = bench.runtime()
    again = bench.engine.resolve(first.resolved, Quiet())
    assert (again.resolved, again.base) == (first.resolved, first.base)


def test_an_unknown_version_is_not_found(bench: Bench) -> None:
    """A version that there is not names itself and one that there is."""
    with pytest.raises(NotFound, match=r"3\.98") as caught:
        bench.engine.resolve("3.98", Quiet())
    assert PYTHON in caught.value.message


def test_what_is_no_version_is_refused(bench: Bench) -> None:
    """Words that cannot name a CPython are a wrong request."""
    with pytest.raises(InvalidRequest):
        bench.engine.resolve("python3; rm -rf /", Quiet())


def test_a_lock_pins_by_hash_and_names_no_address(bench: Bench) -> None:
    """Each package of a lock has a version and hashes, and no line says where it comes from."""
    lock = bench.engine.lock(bench.runtime(), ["six==1.16.0"], Quiet())
    assert lock.startswith("six==1.16.0 --hash=sha256:")
    assert "://" not in lock


def test_no_requirements_lock_to_nothing(bench: Bench) -> None:
    """A venv without requirements has an empty lock."""
    assert bench.engine.lock(bench.runtime(), [], Quiet()) == ""


def test_constraints_and_checks(bench: Bench) -> None:
    """A lock keeps to the constraints. A venv that cannot import what it must is refused, also if it exists already."""
    runtime = bench.runtime()
    lock = bench.engine.lock(runtime, ["six"], Quiet(), ["six==1.16.0", "numpy<2"])
    assert [line.split(" ")[0] for line in lock.splitlines()] == ["six==1.16.0"]
    broken = VenvBuild(runtime, lock, checks=("six", "no_such_module"))
    with pytest.raises(InvalidRequest, match="import no_such_module raises ModuleNotFoundError"):
        bench.engine.build(broken, Quiet())
    assert bench.engine.find_image(broken.key()) is None
    built = bench.engine.build(VenvBuild(runtime, lock, checks=("six",)), Quiet())
    assert built.key == broken.key()
    with pytest.raises(InvalidRequest, match="no_such_module"):
        bench.engine.build(broken, Quiet())
    assert bench.engine.find_image(broken.key()) == built


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("no-such-package-of-venvd==1", "no-such-package-of-venvd"),
        ("six==99999", "six"),
        ("--index-url http://127.0.0.1:1/", "option"),
        ("./somewhere", "path"),
    ],
)
def test_what_cannot_be_locked_is_named(bench: Bench, line: str, named: str) -> None:
    """A requirement that does not exist, or that may not be asked for, is a wrong request that says which."""
    with pytest.raises(InvalidRequest, match=named):
        bench.engine.lock(bench.runtime(), [line], Quiet())


def test_a_venv_holds_what_was_locked(bench: Bench) -> None:
    """The image of a venv lists exactly the packages of its lock."""
    image = bench.engine.build(bench.wanted("six==1.16.0"), Quiet())
    assert [(package.name, package.version) for package in image.packages] == [("six", "1.16.0")]


def test_an_equal_venv_is_found_and_not_built(bench: Bench) -> None:
    """A second build of the same content answers with the first one's image, by another engine object too."""
    wanted = bench.wanted("six==1.16.0")
    first = bench.engine.build(wanted, Quiet())
    progress = Quiet()
    assert bench.another().build(wanted, progress) == first
    assert "== install" not in progress.lines
    assert bench.engine.find_image(wanted.key()) == first


def test_builds_of_one_key_at_a_time(bench: Bench) -> None:
    """Two builds of the same content at once give one image, built once."""
    wanted = bench.wanted("six==1.15.0")
    logs = [Quiet(), Quiet()]
    with ThreadPoolExecutor(2) as pool:
        images = list(pool.map(lambda progress: bench.engine.build(wanted, progress), logs))
    assert images[0] == images[1]
    assert sum(line == "== install" for progress in logs for line in progress.lines) == 1


def test_a_removed_image_is_gone(bench: Bench) -> None:
    """An image that was removed is not found, removing it again is no error, and it can be built again."""
    wanted = bench.wanted("six==1.14.0")
    bench.engine.build(wanted, Quiet())
    bench.engine.remove_image(wanted.key())
    bench.engine.remove_image(wanted.key())
    assert bench.engine.find_image(wanted.key()) is None
    assert bench.engine.build(wanted, Quiet()).packages


def test_a_cancelled_build_leaves_nothing(bench: Bench) -> None:
    """A build that is cancelled raises Cancelled, leaves no image, and does not stand in the way of the next one."""
    wanted = bench.wanted("six==1.13.0")
    with pytest.raises(Cancelled):
        bench.engine.build(wanted, CancelledAt("install"))
    assert bench.engine.find_image(wanted.key()) is None
    assert bench.engine.build(wanted, Quiet()).packages


# ---- backends ----------------------------------------------------------------------------------------------------


def test_a_backend_starts_and_serves(bench: Bench, image: Image) -> None:
    """A started backend becomes ready, both its parts run, and user code runs on the venv's CPython."""
    with bench.running(bench.launch(image)) as record:
        assert bench.engine.inspect(record).running
        code = "import platform; platform.python_version()"
        assert evaluate(record, code) == image.python


def test_a_handle_survives_as_json(bench: Bench, image: Image) -> None:
    """A record that was stored as JSON finds its backend from another engine object."""
    with bench.running(bench.launch(image)) as record:
        stored = LaunchRecord(**json.loads(json.dumps(dataclasses.asdict(record))))
        again = bench.another()
        assert again.inspect(stored).running
        again.stop(stored, 5)
        assert not bench.engine.inspect(record).running


def test_a_running_backend_is_found_again(bench: Bench, image: Image) -> None:
    """An engine object that knows nothing lists what runs, with the record that `start` gave."""
    launch = bench.launch(image)
    with bench.running(launch) as record:
        found = {owned.launch_id: owned for owned in bench.another().list_owned()}[launch.id]
        assert (found.name, found.record, found.complete) == (launch.name, record, True)


def is_accepted(record: LaunchRecord, token: str) -> bool:
    try:
        return bool(evaluate(record, "1 + 1", token) == 2)
    except Unauthenticated:
        return False


def test_keys_of_a_running_backend_are_replaced(bench: Bench, image: Image) -> None:
    """A server accepts the keys of its launch, then those that replace them, and user code sees no key file."""
    launch = bench.launch(image, keys=render_keys("first"))
    with bench.running(launch) as record:
        look = "import glob; glob.glob('/run/venvd/keys*/**', recursive=True)"
        assert evaluate(record, look, "first") == []
        bench.another().write_keys(record, render_keys("second"))
        wait_until(lambda: is_accepted(record, "second"), "the new key is not accepted")
        assert not is_accepted(record, "first")
    bench.engine.write_keys(record, render_keys("third"))
    assert not list(bench.settings.run_dir.glob(f"keys-*/{launch.id}"))


def test_sweeping_leaves_backends_alone(bench: Bench, image: Image) -> None:
    """What `sweep` of another engine object removes are not backends, images or what either needs."""
    with bench.running(bench.launch(image)) as record:
        bench.another().sweep()
        assert evaluate(record, "1 + 1") == 2
        assert bench.engine.find_image(image.key) == image
    with bench.running(bench.launch(image)):
        pass


def test_stop_and_destroy_may_be_repeated(bench: Bench, image: Image) -> None:
    """Both can be called again and again; afterwards the parts have exited, and then are missing."""
    launch = bench.launch(image)
    with bench.running(launch) as record:
        for _ in range(2):
            bench.engine.stop(record, 5)
        state = bench.engine.inspect(record)
        assert (state.server.state, state.worker.state) == ("exited", "exited")
        for _ in range(2):
            bench.engine.destroy(record)
        state = bench.engine.inspect(record)
        assert (state.server.state, state.worker.state) == ("missing", "missing")
        assert not bench.owned(launch.id)


@pytest.mark.host
def test_an_exact_port_that_is_taken_is_a_conflict(bench: Bench, image: Image) -> None:
    """A start on a port that something else holds names the port and leaves nothing."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        launch = bench.launch(image, ports=(Port("main", 5678, taken, exact=True),))
        bench.engine.prepare("http", Quiet())
        with pytest.raises(Conflict, match=str(taken)):
            bench.engine.start(launch, Quiet())
    assert not bench.owned(launch.id)


@pytest.mark.host
def test_a_wanted_port_that_is_taken_is_passed_over(bench: Bench, image: Image) -> None:
    """Where a port is only wanted, a later free one is taken."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        with bench.running(bench.launch(image, ports=(Port("main", 5678, taken),))) as record:
            assert (urlsplit(record.url).port or 0) > taken


@pytest.mark.host
def test_a_pipe_has_a_name_while_it_runs(bench: Bench, image: Image) -> None:
    """.NET's path leads to the socket until the backend ends; another backend does not get the name."""
    link = bench.settings.pipe_name_dir / "CoreFxPipe_beep"
    launch = bench.launch(image, "pipe", pipe_name="beep")
    with bench.running(launch) as record:
        assert f"unix://{link.readlink()}" == record.url
        with socket.socket(socket.AF_UNIX) as client, client.makefile("rwb", 0) as stream:
            client.connect(str(link))
            stream.write(b'{"command": "ping"}\n')
            assert stream.readline() == b'{"result":{"status":"ok"}}\n'
        other = bench.launch(image, "pipe", pipe_name="beep")
        with pytest.raises(Conflict, match="in use"):
            bench.engine.start(other, Quiet())
        assert not bench.owned(other.id)
        assert link.is_symlink()
    assert not link.is_symlink()


def test_starts_at_once_get_ports_of_their_own(bench: Bench, image: Image) -> None:
    """Backends that are started at the same time never share a port."""
    launches = [bench.launch(image) for _ in range(3)]
    bench.engine.prepare("http", Quiet())
    with ThreadPoolExecutor(3) as pool:
        records = list(pool.map(lambda launch: bench.engine.start(launch, Quiet()), launches))
    try:
        assert len({record.url for record in records}) == 3
        for record in records:
            wait_ready(record.probe_url)
    finally:
        for record in records:
            bench.engine.destroy(record)


def test_a_failed_start_leaves_nothing(bench: Bench, image: Image) -> None:
    """A start from an image that is gone raises one of the contract's errors and leaves no part."""
    ref = str(Path(image.ref).parent / "gone") if "/" in image.ref else f"sha256:{'0' * 64}"
    launch = bench.launch(dataclasses.replace(image, ref=ref))
    bench.engine.prepare("http", Quiet())
    with pytest.raises(VenvdError):
        bench.engine.start(launch, Quiet())
    assert not bench.owned(launch.id)


def test_logs_name_their_source(bench: Bench, image: Image) -> None:
    """Log lines carry a time, a source and a stream; `tail` gives the last ones."""
    with bench.running(bench.launch(image)) as record:
        lines = list(bench.engine.logs(record, None, follow=False))
        assert any(line.source == "server" for line in lines)
        assert {line.source for line in lines} <= {"server", "worker"}
        assert {line.stream for line in lines} <= {"stdout", "stderr"}
        assert [line.time for line in lines] == sorted(line.time for line in lines)
        assert len(list(bench.engine.logs(record, 1, follow=False))) == 1


def test_followed_logs_end_with_the_backend(bench: Bench, image: Image) -> None:
    """Who follows the log sees lines that come later, and the end once the backend has stopped."""
    with bench.running(bench.launch(image)) as record:
        before = len(list(bench.engine.logs(record, None, follow=False)))
        found: list[str] = []
        follower = threading.Thread(
            target=lambda: found.extend(line.text for line in bench.engine.logs(record, None, follow=True))
        )
        follower.start()
        evaluate(record, "1")
        bench.engine.stop(record, 5)
        follower.join(120)
        assert not follower.is_alive()
        assert len(found) > before


def test_user_code_gets_its_environment_only(bench: Bench, image: Image) -> None:
    """User code sees the variables of the launch's worker and none of the server's."""
    launch = bench.launch(image, worker_env={"GREETING": "hello, world", "ODD": 'a"b\nc'})
    with bench.running(launch) as record:
        code = "import os; [os.environ.get('GREETING'), os.environ.get('ODD'), 'VENVD_TOKEN_SHA256' in os.environ]"
        assert evaluate(record, code) == ["hello, world", 'a"b\nc', False]


@pytest.mark.host
def test_a_pipe_has_its_directory_while_it_lives(bench: Bench, image: Image) -> None:
    """The sockets of a pipe backend lie in its own subdirectory of the run directory, which goes with it."""
    launch = bench.launch(image, "pipe")
    directory = bench.settings.run_dir / str(launch.socket_name)
    with bench.running(launch) as record:
        assert urlsplit(record.url).path == str(directory / "pipe.sock")
        assert (directory / "pipe.sock").is_socket()
    assert not directory.exists()


def test_a_part_that_dies_is_seen(bench: Bench, image: Image) -> None:
    """Where one part has ended, the backend does not count as running and says which part it is."""
    with bench.running(bench.launch(image)) as record:
        bench.engine.stop(record, 0)
        state = bench.engine.inspect(record)
        assert not state.running
        assert state.server.detail
        assert state.worker.detail


@pytest.mark.host
@pytest.mark.needs("openssl")
@pytest.mark.parametrize("kind", ["http", "rpc"])
def test_files_of_the_host_reach_the_server(
    bench: Bench, image: Image, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    """A server with a certificate and a key of the host speaks TLS, and its addresses say so."""
    folder = tmp_path_factory.mktemp("tls")
    make_authority(folder)
    cert, key = make_certificate(folder, "server")
    files = {"VENVD_TLS_CERT": cert, "VENVD_TLS_KEY": key}
    with bench.running(bench.launch(image, kind, server_files=files)) as record:
        address = urlsplit(record.url)
        assert (address.scheme, urlsplit(record.probe_url).scheme) == (
            ("https", "https") if kind == "http" else ("grpcs", "http")
        )
        presented = ssl.get_server_certificate((str(address.hostname), address.port or 0), timeout=60)
        assert presented.strip() in cert.read_text()
