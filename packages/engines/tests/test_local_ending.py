from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from venvd_engines.engine import Launch
from venvd_engines.local import launches, state
from venvd_engines.local.launches import Launches
from venvd_engines.local.processes import wait_until

Site = Any
"""The fixture's class, in conftest.py."""

STUBBORN_FAMILY = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        break
time.sleep(300)
"""


def test_stop_ends_both_parts_gently(site: Site, launch: Launch, tmp_path: Path) -> None:
    """Stopping asks both parts, the server first, and waits for them; again is no error."""
    order = tmp_path / "order"
    tell = "import signal, sys\ndef end(*_):\n    open({!r}, 'a').write({!r}); sys.exit(0)\nsignal.signal(15, end)\n"
    site.server = tell.format(str(order), "server ") + site.server.replace("serve_forever()", "serve_forever(0.05)")
    site.worker = tell.format(str(order), "worker ") + site.worker
    site.start(launch)
    site.wait_worker(launch)
    for _ in range(2):
        site.launches.stop(launch.id, 20)
    assert order.read_text() == "server worker "
    status = site.launches.inspect(launch.id)
    assert (status.server.state, status.worker.state) == ("exited", "exited")
    assert status.server.detail == "exited with status 0"


@pytest.mark.parametrize("grace", [0, 0.5])
@pytest.mark.slow
def test_stop_ends_what_will_not_stop(site: Site, launch: Launch, grace: float) -> None:
    """After the grace everything is killed: what ignores SIGTERM, left its session or left its parent."""
    site.worker = STUBBORN_FAMILY
    site.start(launch)
    assert wait_until(lambda: len(site.everything(launch)) >= 5, 20)
    everything = site.everything(launch)
    site.launches.stop(launch.id, grace)
    assert wait_until(lambda: not any(one.alive() for one in everything), 10)


@pytest.mark.slow
def test_stop_ends_a_supervisor_that_does_not_answer(
    site: Site, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where even the supervisor hangs, the engine ends it and all below it from outside."""
    monkeypatch.setattr(launches, "_KILL_SECONDS", 1.0)
    site.worker = STUBBORN_FAMILY
    site.start(launch)
    supervisor = site.supervisor(launch)
    assert wait_until(lambda: len(site.everything(launch)) >= 5, 20)
    everything = site.everything(launch)
    os.kill(supervisor.pid, signal.SIGSTOP)
    site.launches.stop(launch.id, 0.2)
    assert wait_until(lambda: not any(one.alive() for one in everything), 10)


@pytest.mark.parametrize("part", ["server", "worker"])
def test_a_part_that_was_killed_is_told(site: Site, launch: Launch, part: str) -> None:
    """The state names the part that ended and how, also to a new controller; the other part runs on."""
    site.start(launch)
    os.kill(site.part(launch, part).pid, signal.SIGKILL)
    site.wait_ended(launch, part)
    status = site.restarted().inspect(launch.id)
    assert {part: "exited"}.items() <= {"server": status.server.state, "worker": status.worker.state}.items()
    assert not status.running
    assert (status.server if part == "server" else status.worker).detail == "was killed by signal 9 (SIGKILL)"
    assert (status.worker if part == "server" else status.server).state == "running"
    (owned,) = site.restarted().list_owned()
    assert not owned.complete


@pytest.mark.slow
def test_what_a_killed_warden_leaves_is_ended(site: Site, launch: Launch) -> None:
    """Processes that outlive their warden are ended by the supervisor; the server's stay."""
    site.worker = STUBBORN_FAMILY
    site.start(launch)
    supervisor, server, worker = site.supervisor(launch), site.part(launch, "server"), site.part(launch, "worker")
    assert wait_until(lambda: len(site.everything(launch)) >= 5, 20)
    others = [one for one in site.everything(launch) if one not in {supervisor, server, worker}]
    os.kill(worker.pid, signal.SIGKILL)
    site.wait_ended(launch, "worker")
    assert wait_until(lambda: not any(one.alive() for one in others), 10)
    assert server.alive()


def test_both_parts_go_with_their_supervisor(site: Site, launch: Launch) -> None:
    """A supervisor that is killed takes both parts with it, and the state says so."""
    site.start(launch)
    parts = [site.part(launch, name) for name in state.PARTS]
    os.kill(site.supervisor(launch).pid, signal.SIGKILL)
    assert wait_until(lambda: not any(part.alive() for part in parts), 20)
    status = site.launches.inspect(launch.id)
    assert status.server.state == status.worker.state == "exited"
    assert "supervisor" in status.server.detail


def test_destroy_removes_everything_again_and_again(site: Site, launch: Launch) -> None:
    """Destroying ends what runs and removes its directory, whatever its user made there; again is no error."""
    site.worker = "import os; os.makedirs('a/b'); open('a/b/c', 'w').close(); os.chmod('a', 0)\n" + site.worker
    site.start(launch)
    site.wait_worker(launch)
    everything = site.everything(launch)
    for _ in range(2):
        site.launches.destroy(launch.id)
    assert not any(one.alive() for one in everything)
    assert list(site.place.root.iterdir()) == []
    status = site.launches.inspect(launch.id)
    assert status.server.state == status.worker.state == "missing"


KILLED = """
import json, os, sys
from pathlib import Path
from harness.stack import Quiet
from venvd_engines.engine import Image, Launch, Port
from venvd_engines.local import starter, state
from venvd_engines.local.launches import Launches, Place
from venvd_engines.local.secret_files import SecretFiles
root, run, image, archive, server, port, moment = json.loads(sys.argv[1])
place = Place(Path(root), "test-home", Path(run), Path(run), SecretFiles("test-home", (), Path(run)))
class Dying(Quiet):
    def check(self):
        if moment == "listening":
            os.kill(os.getpid(), 9)
def die(*_):
    os.kill(os.getpid(), 9)
if moment == "recorded":
    starter._spawn = die
if moment == "spawned":
    starter._send_spec = die
starter = starter.Starter(place, Launches(place), lambda _: [sys.executable, "-I", "-c", server])
launch = Launch("killed", "mine", "http", Image(*image), {}, ports=(Port("main", 1, port),))
starter.start(launch, Path(archive), Dying())
print("started", flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("moment", ["recorded", "spawned", "listening", "started"])
def test_a_start_cut_short_is_found_and_removed(site: Site, launch: Launch, moment: str, tmp_path: Path) -> None:
    """Wherever SIGKILL hits a controller that starts a backend, the next one finds the launch and removes all of it."""
    archive = tmp_path / "archive.py"
    archive.write_text(site.worker)
    image = [launch.image.key, launch.image.ref, launch.image.python]
    given = [
        str(site.place.root),
        str(site.place.run_dir),
        image,
        str(archive),
        site.server,
        launch.ports[0].wanted,
        moment,
    ]
    tests = str(Path(__file__).resolve().parents[3] / "tests")
    env = {**os.environ, "PYTHONPATH": tests}
    assert subprocess.run([sys.executable, "-c", KILLED, json.dumps(given)], env=env, check=False).returncode == -9
    new = site.restarted()
    (owned,) = new.list_owned()
    assert (owned.launch_id, owned.name) == ("killed", "mine")
    record = state.read(site.place.directory("killed"))
    assert record is not None
    supervisor = record.supervisor_identity()
    if moment == "spawned":
        assert supervisor is not None
        assert wait_until(lambda: not supervisor.alive(), 20), (
            "a supervisor that was told nothing starts nothing and ends"
        )
    if moment in {"listening", "started"}:
        assert wait_until(lambda: new.inspect("killed").running, 20)
    everything = site.everything(replace(launch, id="killed")) if supervisor is not None else []
    new.destroy("killed")
    assert wait_until(lambda: not any(one.alive() for one in everything), 10)
    assert list(site.place.root.iterdir()) == []


def test_a_directory_without_a_record_is_owned_and_removed(site: Site) -> None:
    """What was begun before its record was written is found as incomplete, and can be destroyed."""
    (site.place.root / "begun" / "work").mkdir(parents=True)
    (owned,) = site.launches.list_owned()
    assert (owned.launch_id, owned.record, owned.complete) == ("begun", None, False)
    site.launches.destroy("begun")
    assert site.launches.list_owned() == []


def test_another_homes_launches_are_not_ours(site: Site, launch: Launch) -> None:
    """A launch that carries another home's identity is not listed."""
    site.start(launch)
    assert Launches(replace(site.place, home_id="another")).list_owned() == []


def test_a_reboot_ends_everything(site: Site, launch: Launch) -> None:
    """Processes of an earlier boot are not taken for running, whatever has their numbers now."""
    record = site.start(launch)
    state.write(site.directory(launch), replace(record, boot="earlier"))
    status = site.restarted().inspect(launch.id)
    assert status.server.state == status.worker.state == "exited"
    assert status.server.detail == "ended with the machine"
    state.write(site.directory(launch), record)


@pytest.mark.slow
def test_a_sweep_removes_what_a_killed_removal_left(site: Site, launch: Launch) -> None:
    """Half-removed directories go, launches stay."""
    site.start(launch)
    (site.place.root / ".retired-x" / "work").mkdir(parents=True)
    site.launches.sweep()
    assert [path.name for path in site.place.root.iterdir()] == [launch.id]
    assert site.launches.inspect(launch.id).running
