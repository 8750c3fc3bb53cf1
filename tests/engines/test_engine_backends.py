"""What every engine does the same with backends, written once against the interface."""

from __future__ import annotations

import dataclasses
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness.access_keys import render_keys
from harness.bench import Bench, evaluate
from harness.certificates import make_authority, make_certificate
from harness.stack import Quiet, wait_ready
from harness.waiting import wait_until

from venvd_contract.errors import Conflict, Unauthenticated, VenvdError
from venvd_engines.engine import Image, Launch, LaunchRecord, Port

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def launch(bench: Bench, image: Image) -> Launch:
    return bench.launch(image, worker_env={"GREETING": "hello, world", "ODD": 'a"b\nc'})


@pytest.fixture(scope="module")
def record(bench: Bench, launch: Launch) -> Iterator[LaunchRecord]:
    """The backend of that launch, for tests that leave it as it is."""
    with bench.running(launch) as record:
        yield record


def test_a_backend_starts_and_serves(bench: Bench, image: Image, record: LaunchRecord) -> None:
    """A started backend becomes ready, both its parts run, and user code runs on the venv's CPython."""
    assert bench.engine.inspect(record).running
    assert evaluate(record, "import platform; platform.python_version()") == image.python


def test_a_handle_survives_as_json(bench: Bench, image: Image) -> None:
    """A record that was stored as JSON finds its backend from another engine object."""
    with bench.running(bench.launch(image)) as record:
        stored = LaunchRecord(**json.loads(json.dumps(dataclasses.asdict(record))))
        again = bench.another()
        assert again.inspect(stored).running
        again.stop(stored, 5)
        assert not bench.engine.inspect(record).running


def test_a_running_backend_is_found_again(bench: Bench, launch: Launch, record: LaunchRecord) -> None:
    """An engine object that knows nothing lists what runs, with the record that `start` gave."""
    owned = {owned.launch_id: owned for owned in bench.another().list_owned()}[launch.id]
    assert (owned.name, owned.record, owned.complete) == (launch.name, record, True)


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


def test_sweeping_leaves_backends_alone(bench: Bench, image: Image, record: LaunchRecord) -> None:
    """What `sweep` of another engine object removes are not backends, images or what either needs."""
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


def test_logs_name_their_source(bench: Bench, record: LaunchRecord) -> None:
    """Log lines carry a time, a source and a stream; `tail` gives the last ones."""
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
        texts: list[str] = []
        follower = threading.Thread(
            target=lambda: texts.extend(line.text for line in bench.engine.logs(record, None, follow=True))
        )
        follower.start()
        evaluate(record, "1")
        bench.engine.stop(record, 5)
        follower.join(120)
        assert not follower.is_alive()
        assert len(texts) > before


def test_user_code_gets_its_environment_only(launch: Launch, record: LaunchRecord) -> None:
    """User code sees the variables of the launch's worker and none of the server's."""
    code = "import os; [os.environ.get('GREETING'), os.environ.get('ODD'), 'VENVD_TOKEN_SHA256' in os.environ]"
    assert evaluate(record, code) == [*launch.worker_env.values(), False]


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
