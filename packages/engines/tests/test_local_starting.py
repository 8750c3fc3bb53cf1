from __future__ import annotations

import json
import secrets
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.stack import Quiet

from venvd_contract.errors import Cancelled, Conflict, InvalidRequest, Unavailable
from venvd_contract.internal import TAKEN
from venvd_engines.engine import Launch, Port
from venvd_engines.local import starter, state
from venvd_engines.local.launches import to_launch_record
from venvd_engines.local.processes import Identity, wait_until
from venvd_engines.local.starter import Starter

Site = Any
"""The fixture's class, in conftest.py."""

UNIX = """
import os, socket, time
made = []
for name in ("pipe.sock", "http.sock"):
    listener = socket.socket(socket.AF_UNIX); listener.bind(os.path.join(os.environ["VENVD_SOCKET_DIR"], name))
    listener.listen(); made.append(listener)
time.sleep(300)
"""


def test_a_started_backend_answers_and_runs(site: Site, launch: Launch) -> None:
    """A start returns once the server listens; both parts run, and a new controller finds them."""
    record = site.start(launch)
    assert record.url == record.probe_url == f"http://127.0.0.1:{launch.ports[0].wanted}"
    assert site.ask(record.url)
    assert site.launches.inspect(launch.id).running
    (owned,) = site.restarted().list_owned()
    assert (owned.launch_id, owned.name, owned.complete) == (launch.id, "mine", True)
    assert owned.record is not None
    assert owned.record.url == record.url


def test_each_part_finds_its_own_environment(site: Site, launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither part sees the controller's environment, and the worker host sees nothing of the server's."""
    monkeypatch.setenv("VENVD_TEST_CANARY", "1")
    record = site.start(launch)
    seen = site.directory(launch) / "work" / "seen.json"
    assert wait_until(lambda: seen.exists() and bool(seen.read_text()), 20)
    server, worker = site.ask(record.url), json.loads(seen.read_text())
    assert isinstance(server["env"], dict)
    assert "VENVD_TEST_CANARY" not in {*server["env"], *worker["env"]}
    assert server["env"]["VENVD_TOKEN_SHA256"] == "digest"
    assert server["env"]["VENVD_PORT"] == str(launch.ports[0].wanted)
    assert {name for name in worker["env"] if name.startswith("VENVD_")} == {"VENVD_WORKER_ENV"}
    assert json.loads(worker["env"]["VENVD_WORKER_ENV"]) == {"USERS": "own"}
    directory = site.directory(launch)
    places = ["--channel", f"{directory}/channel", "--work-dir", f"{directory}/work"]
    walls = ["--read", launch.image.ref, "--no-network"]
    assert worker["argv"][1:] == ["warden", *places, *walls, *launch.warden_options()]


def test_limits_become_those_of_sessions(site: Site, launch: Launch) -> None:
    """What a container would limit is the default limit of sessions; a limit that is asked for wins."""
    env = {**launch.server_env, "VENVD_SESSION_LIMITS": json.dumps({"processes": 7, "memoryBytes": None})}
    answer = site.ask(site.start(replace(launch, server_env=env)).url)
    assert isinstance(answer["env"], dict)
    limits = json.loads(answer["env"]["VENVD_SESSION_LIMITS"])
    assert limits == {"processes": 7, "memoryBytes": launch.limits.memory_bytes}


def test_no_secret_is_on_a_command_line_or_in_a_file(site: Site, launch: Launch) -> None:
    """What a backend is told stands in no argument list and in no file."""
    secret = f"secret-{secrets.token_hex(8)}"
    site.start(replace(launch, server_env={"VENVD_TOKEN_SHA256": secret}, worker_env={"KEY": secret}))
    supervisor = site.supervisor(launch)
    for one in site.everything(launch):
        assert secret not in Path(f"/proc/{one.pid}/cmdline").read_text()
    assert secret not in Path(f"/proc/{supervisor.pid}/environ").read_text()
    files = [path for path in site.directory(launch).rglob("*") if path.is_file() and path.name != "seen.json"]
    assert not [path for path in files if secret in path.read_text()]
    assert {path.stat().st_mode & 0o077 for path in [*files, site.directory(launch)]} == {0}


def test_a_port_of_another_backend_is_no_choice(site: Site, launch: Launch) -> None:
    """A port to which another one comes back is passed over although no process listens, and refused if asked for."""
    wanted = launch.ports[0].wanted
    record = site.start(replace(launch, reserved={wanted}))
    assert record.ports["main"] > wanted
    exact = replace(launch.ports[0], exact=True)
    with pytest.raises(Conflict, match=str(wanted)):
        site.start(replace(site.again(launch), ports=(exact,), reserved={wanted}))


def test_an_exact_port_is_chosen_before_another_takes_its_number(site: Site, launch: Launch) -> None:
    """A port that may be any leaves the number that another port must have; the record has the address of both."""
    wanted = launch.ports[0].wanted
    started = site.start(replace(launch, ports=(Port("main", 1, wanted), Port("http", 2, wanted, exact=True))))
    assert (started.ports["main"] > wanted, started.ports["http"]) == (True, wanted)
    assert to_launch_record(started).http_url == f"http://127.0.0.1:{wanted}"


@pytest.mark.slow
def test_the_next_port_where_one_is_taken(site: Site, launch: Launch) -> None:
    """Two backends that want one port get two, and one that must have it is told who has it."""
    first, second = site.start(launch), site.start(site.again(launch))
    assert second.ports["main"] > first.ports["main"]
    assert site.ask(first.url)
    assert site.ask(second.url)
    exact = replace(site.again(launch), ports=(Port("main", 1, first.ports["main"], exact=True),))
    with pytest.raises(Conflict, match=f"port {first.ports['main']} is taken by process"):
        site.start(exact)
    assert not site.directory(exact).exists()


@pytest.mark.slow
def test_a_lost_race_for_a_port_is_run_again(site: Site, launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is taken between the look and the server's listening is given up for the next one.

    The log of the backend does not have the output of the attempt that lost its port, and its channel is new.
    """
    wanted = launch.ports[0].wanted
    spawn = starter._spawn
    joined = site.directory(launch) / "channel" / TAKEN
    with socket.socket() as thief:

        def taken_meanwhile(*arguments: object) -> Identity:
            if not thief.getsockname()[1]:
                thief.bind(("127.0.0.1", wanted))
                thief.listen()
                joined.touch()
            return spawn(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(starter, "_spawn", taken_meanwhile)
        record = site.start(launch)
    assert record.ports["main"] > wanted
    assert not joined.exists()
    assert site.ask(record.url)
    assert site.launches.inspect(launch.id).running
    assert not [line for line in site.launches.logs(launch.id, None, follow=False) if "in use" in line.text]


def test_a_lost_race_for_an_exact_port_is_a_conflict(
    site: Site, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that must be it and is lost is a conflict, and nothing stays."""
    wanted = launch.ports[0].wanted
    spawn = starter._spawn
    with socket.socket() as thief:

        def taken_meanwhile(*arguments: object) -> Identity:
            thief.bind(("127.0.0.1", wanted))
            thief.listen()
            return spawn(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(starter, "_spawn", taken_meanwhile)
        with pytest.raises(Conflict, match=str(wanted)):
            site.start(replace(launch, ports=(Port("main", 1, wanted, exact=True),)))
    assert not site.directory(launch).exists()


@pytest.mark.slow
def test_many_starts_at_once_get_ports_of_their_own(site: Site, launch: Launch) -> None:
    """Backends that start at the same time and want one port each get another."""
    records: list[state.State] = []
    threads = [threading.Thread(target=lambda: records.append(site.start(site.again(launch)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({record.ports["main"] for record in records}) == 4


@pytest.mark.parametrize(
    ("part", "code", "words"),
    [
        ("server", "import sys; print('no such setting', file=sys.stderr); sys.exit(2)", "exited with status 2"),
        ("server", "import os; print('no such setting', flush=True); os.kill(os.getpid(), 11)", "signal 11 (SIGSEGV)"),
        ("worker", "raise SystemExit('no such setting')", "exited with status 1"),
    ],
)
def test_a_part_that_ends_at_once_is_told_with_its_last_words(
    site: Site, launch: Launch, part: str, code: str, words: str
) -> None:
    """A backend that cannot start fails with how its part ended and what it said, and leaves nothing."""
    setattr(site, part, code)
    if part == "worker":
        site.server = "import time; time.sleep(300)"
    with pytest.raises(Unavailable) as error:
        site.start(launch)
    assert words in error.value.message
    assert "no such setting" in error.value.message
    assert site.launches.list_owned() == []


def test_a_server_that_ends_after_its_worker_host(site: Site, launch: Launch) -> None:
    """The worker host ended since the server did, so the error has the words of the server."""
    site.worker = "raise SystemExit(0)"
    site.server = "import sys\nwhile 'exited with' not in open('state.json').read(): pass\nsys.exit('no such setting')"
    with pytest.raises(Unavailable, match=r"the server exited with status 1.*no such setting"):
        site.start(launch)


def test_an_interpreter_that_is_gone_is_told(site: Site, launch: Launch, tmp_path: Path) -> None:
    """A venv whose interpreter is gone makes no backend, and the error names it."""
    site.server = "import time; time.sleep(300)"
    (tmp_path / "venv" / "bin" / "python").unlink()
    with pytest.raises(Unavailable, match=r"could not be started.*venv/bin/python"):
        site.start(launch)


def test_a_start_can_be_cancelled(site: Site, launch: Launch) -> None:
    """A start that is cancelled while its server is not listening yet leaves nothing."""

    class Impatient(Quiet):
        def check(self) -> None:
            if state.read(site.directory(launch)) and site.launches.inspect(launch.id).running:
                raise Cancelled("it is not wanted")

    site.server = "import time; time.sleep(300)"
    with pytest.raises(Cancelled):
        site.start(launch, Impatient())
    assert site.launches.list_owned() == []


def test_a_launch_is_started_once(site: Site, launch: Launch) -> None:
    """Starting the same launch twice is a conflict that leaves the first running."""
    site.start(launch)
    with pytest.raises(Conflict):
        site.start(launch)
    assert site.launches.inspect(launch.id).running


@pytest.mark.parametrize("launch_id", ["../escape", "", ".", "a/b", "-x", "x" * 65])
def test_a_launch_stays_in_its_home(site: Site, launch: Launch, launch_id: str) -> None:
    """No identifier of a launch leads out of the home."""
    with pytest.raises(InvalidRequest):
        site.start(replace(launch, id=launch_id))


def test_a_path_too_long_for_sockets_is_refused(site: Site, launch: Launch) -> None:
    """A home or run directory whose sockets would be beyond the kernel's limit is refused, naming the setting."""
    deep = site.place.root / ("d" * 90)
    with pytest.raises(InvalidRequest, match="VENVD_HOME"):
        Starter(replace(site.place, root=deep), site.launches, lambda _: []).start(launch, Path("x"), Quiet())
    pipe = replace(launch, type="pipe", ports=(), socket_name="s" * 60)
    far = Starter(replace(site.place, run_dir=deep), site.launches, lambda _: [])
    with pytest.raises(InvalidRequest, match="VENVD_RUN_DIR"):
        far.start(pipe, Path("x"), Quiet())


@pytest.fixture
def pipe(launch: Launch, site: Site) -> Launch:
    site.server = UNIX
    return replace(launch, type="pipe", ports=(), socket_name="abc123")


def test_sockets_lie_in_a_private_directory(site: Site, pipe: Launch) -> None:
    """A pipe backend's sockets are in its own subdirectory, which only its owner may enter."""
    record = site.start(pipe)
    directory = site.place.run_dir / "abc123"
    assert (record.url, record.probe_url) == (f"unix://{directory}/pipe.sock", f"unix://{directory}/http.sock")
    assert directory.stat().st_mode & 0o777 == 0o700
    site.launches.destroy(pipe.id)
    assert not directory.exists()


@pytest.mark.slow
def test_sockets_of_a_later_launch_stay(site: Site, pipe: Launch) -> None:
    """Destroying a launch leaves the sockets of the one that took its place."""
    site.start(pipe)
    later = site.again(pipe)
    site.start(later)
    site.launches.destroy(pipe.id)
    assert (site.place.run_dir / "abc123" / "pipe.sock").exists()
    site.launches.destroy(later.id)
    assert not (site.place.run_dir / "abc123").exists()
