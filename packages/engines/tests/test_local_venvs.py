from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from harness.stack import Quiet

from venvd_contract.errors import Cancelled, Conflict, InUse, InvalidRequest, Unavailable
from venvd_engines import locking
from venvd_engines.engine import RuntimeRef, VenvBuild
from venvd_engines.local import interpreters, processes
from venvd_engines.local.venvs import Tools, Venvs, python_of

pytestmark = pytest.mark.slow

Wheel = Callable[..., Path]
VERSION = platform.python_version().rstrip("+")
BASE = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
RUNTIME = RuntimeRef(VERSION, VERSION, BASE)


class Cancelling(Quiet):
    """Cancelled once that phase began."""

    def __init__(self, phase: str) -> None:
        super().__init__()
        self._phase = f"== {phase}"

    def check(self) -> None:
        if self._phase in self.lines:
            raise Cancelled("it is not wanted")


def locked(venvs: Venvs, *requirements: str) -> str:
    return venvs.lock(BASE, VERSION, list(requirements), Quiet())


def test_a_venv_holds_what_its_lock_says(venvs: Venvs, wheel: Wheel) -> None:
    """A built venv has the exact CPython and exactly the locked packages, and nothing of ours."""
    wheel("alpha", "1.0", requires=["beta>=1"])
    wheel("beta", "1.5")
    wheel("beta", "0.9")
    lock = locked(venvs, "alpha")
    assert locking.pins(lock) == {"alpha": "1.0", "beta": "1.5"}
    image = venvs.build(VenvBuild(RUNTIME, lock), Quiet())
    assert image.python == VERSION
    assert {(package.name, package.version) for package in image.packages} == {("alpha", "1.0"), ("beta", "1.5")}
    code = "import alpha, beta, platform, importlib.metadata as m; print(platform.python_version(), beta.version, \
len(list(m.distributions())))"
    said = subprocess.run([python_of(image), "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [VERSION, "1.5", "2"]


def test_an_empty_venv_is_a_venv(venvs: Venvs) -> None:
    """No requirements need no index: the lock is empty and the venv works."""
    assert locked(venvs) == ""
    image = venvs.build(VenvBuild(RUNTIME, ""), Quiet())
    assert image.packages == []
    assert subprocess.run([python_of(image), "-I", "-c", ""], check=True).returncode == 0


def test_modules_are_compiled_at_build(venvs: Venvs, wheel: Wheel) -> None:
    """Bytecode is made once, at build; a file that is no Python stays as it is."""
    wheel("alpha", "1.0", files={"alpha.py": "x = 1\n", "alpha_templates/broken.py": "{{ this }} is no python(\n"})
    image = venvs.build(VenvBuild(RUNTIME, locked(venvs, "alpha")), Quiet())
    assert len(list(Path(image.ref).glob("lib/python3*/site-packages/__pycache__/alpha.*.pyc"))) == 1


def test_a_build_runs_nothing_of_the_packages(venvs: Venvs, wheel: Wheel, tmp_path: Path) -> None:
    """Code that a package puts into `.pth` files runs in sessions, not during the build."""
    mark = tmp_path / "ran"
    wheel("alpha", "1.0", files={"alpha.py": "x = 1\n", "alpha.pth": f"import os; open({str(mark)!r}, 'w').close()\n"})
    image = venvs.build(VenvBuild(RUNTIME, locked(venvs, "alpha")), Quiet())
    assert not mark.exists()
    subprocess.run([python_of(image), "-I", "-c", ""], check=True)
    assert mark.exists()


def test_files_of_a_venv_are_its_own(venvs: Venvs, wheel: Wheel, tmp_path: Path) -> None:
    """What user code does to a file of its venv reaches neither the installer's cache nor another venv."""
    wheel("alpha", "1.0")
    wheel("beta", "1.0")
    first = venvs.build(VenvBuild(RUNTIME, locked(venvs, "alpha")), Quiet())
    (module,) = Path(first.ref).glob("lib/python3*/site-packages/alpha.py")
    assert module.stat().st_nlink == 1
    with module.open("a") as file:
        file.write("version = 'poisoned'\n")
    second = venvs.build(VenvBuild(RUNTIME, locked(venvs, "alpha", "beta")), Quiet())
    (other,) = Path(second.ref).glob("lib/python3*/site-packages/alpha.py")
    assert "poisoned" not in other.read_text()


def test_the_same_venv_is_built_once(venvs: Venvs, wheel: Wheel) -> None:
    """Equal builds at the same time end as one venv, built once; later ones find it."""
    wheel("alpha", "1.0")
    build = VenvBuild(RUNTIME, locked(venvs, "alpha"))
    progresses = [Quiet() for _ in range(3)]
    threads = [threading.Thread(target=venvs.build, args=(build, progress)) for progress in progresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ["== install" in progress.lines for progress in progresses].count(True) == 1
    late = Quiet()
    assert venvs.build(build, late) == venvs.find(build.key())
    assert "== install" not in late.lines


@pytest.mark.parametrize("phase", ["environment", "install", "compile", "check"])
def test_a_cancelled_build_leaves_nothing(venvs: Venvs, wheel: Wheel, phase: str, tmp_path: Path) -> None:
    """A build that is cancelled in any phase leaves no venv, and the next one succeeds."""
    wheel("alpha", "1.0")
    build = VenvBuild(RUNTIME, locked(venvs, "alpha"))
    with pytest.raises(Cancelled):
        venvs.build(build, Cancelling(phase))
    assert venvs.find(build.key()) is None
    assert list((tmp_path / "venvs").iterdir()) == []
    assert venvs.build(build, Quiet()).packages


def test_waiting_for_another_build_can_be_cancelled(venvs: Venvs, wheel: Wheel) -> None:
    """Who waits for the build of another is told so, and may stop waiting."""
    wheel("alpha", "1.0")
    build = VenvBuild(RUNTIME, locked(venvs, "alpha"))
    waiting = Cancelling("wait")
    with venvs._locks.hold(build.key(), Quiet()), pytest.raises(Cancelled):
        venvs.build(build, waiting)
    assert "another build of the same image is running" in waiting.lines


def test_a_file_that_is_not_the_locked_one_is_refused(venvs: Venvs, wheel: Wheel, tmp_path: Path) -> None:
    """A wheel whose hash is not that of the lock is not installed, and nothing is left."""
    wheel("alpha", "1.0")
    lock = locked(venvs, "alpha")
    wheel("alpha", "1.0", files={"alpha.py": "evil = 1\n"})
    shutil.rmtree(tmp_path / "cache")  # which still has the locked one
    build = VenvBuild(RUNTIME, lock)
    with pytest.raises(Unavailable, match=r"not the one that was locked.*alpha==1\.0"):
        venvs.build(build, Quiet())
    assert venvs.find(build.key()) is None


def test_what_cannot_be_resolved_leaves_nothing(venvs: Venvs, wheel: Wheel, tmp_path: Path) -> None:
    """Requirements that clash are named, and no scratch folder stays."""
    wheel("alpha", "1.0", requires=["beta<1"])
    wheel("beta", "1.0")
    with pytest.raises(InvalidRequest, match="alpha"):
        locked(venvs, "alpha", "beta>=1")
    assert list((tmp_path / "venvs").iterdir()) == []


def test_a_venv_whose_interpreter_is_gone_is_built_again(venvs: Venvs, tmp_path: Path) -> None:
    """A venv is not found once the CPython below it was removed, and a build makes it anew."""
    link = tmp_path / "python-that-goes"
    link.symlink_to(BASE)
    image = venvs.build(VenvBuild(RUNTIME, ""), Quiet())
    python = python_of(image)
    python.unlink()
    python.symlink_to(tmp_path / "gone")
    assert venvs.find(image.key) is None
    assert venvs.build(VenvBuild(RUNTIME, ""), Quiet()) == image
    assert venvs.find(image.key) == image


def test_a_removed_venv_is_gone(venvs: Venvs, tmp_path: Path) -> None:
    """Removing takes the directory and the lock; removing again is no error; what is being built is in use."""
    build = VenvBuild(RUNTIME, "")
    venvs.build(build, Quiet())
    with venvs._locks.hold(build.key(), Quiet()), pytest.raises(InUse) as error:
        venvs.remove(build.key())
    assert isinstance(error.value, Conflict)
    for _ in range(2):
        venvs.remove(build.key())
        assert list((tmp_path / "venvs").iterdir()) == []


KILLED = """
import json, os, sys
from pathlib import Path
from harness.stack import Quiet
from venvd_engines.engine import RuntimeRef, VenvBuild
from venvd_engines.local.venvs import Tools, Venvs
root, tools, runtime, lock = json.loads(sys.argv[1])
class Telling(Quiet):
    def phase(self, name):
        print(name, flush=True)
Venvs(Path(root), Tools(**tools)).build(VenvBuild(RuntimeRef(*runtime), lock), Telling())
"""
SLOW_UV = """#!/bin/sh
case "$*" in
  *"pip install"*) echo $$ > {marker}; exec sleep 300;;
  *) exec {uv} "$@";;
esac
"""


def test_what_a_killed_controller_left_is_swept(venvs: Venvs, tools: Tools, wheel: Wheel, tmp_path: Path) -> None:
    """After SIGKILL in the middle of an installation, a sweep ends the installer and removes the partial venv."""
    wheel("alpha", "1.0")
    build = VenvBuild(RUNTIME, locked(venvs, "alpha"))
    marker, slow = tmp_path / "installer", tmp_path / "slow-uv"
    slow.write_text(SLOW_UV.format(marker=marker, uv=tools.uv))
    slow.chmod(0o755)
    given = {**vars(tools), "uv": str(slow), "env": dict(tools.env)}
    words = json.dumps([str(tmp_path / "venvs"), given, [VERSION, VERSION, BASE], build.lock])
    tests = str(Path(__file__).resolve().parents[3] / "tests")
    with subprocess.Popen([sys.executable, "-c", KILLED, words], env={**os.environ, "PYTHONPATH": tests}) as controller:
        assert processes.wait_until(lambda: marker.exists() and bool(marker.read_text()), 60)
        installer = processes.identify(int(marker.read_text()))
        venvs.sweep()
        assert installer is not None
        assert installer.alive(), "a sweep ends nothing of a builder that lives"
        controller.send_signal(signal.SIGKILL)
    assert installer.alive()
    assert (tmp_path / "venvs" / build.key()).is_dir()
    venvs.sweep()
    assert processes.wait_until(lambda: not installer.alive(), 60)  # it frees its lock shortly before it has ended
    assert list((tmp_path / "venvs").iterdir()) == []
    assert venvs.build(build, Quiet()).packages


def test_a_sweep_keeps_what_is_whole(venvs: Venvs, tmp_path: Path) -> None:
    """A built venv, and a build that runs, survive a sweep; half a venv does not."""
    whole = venvs.build(VenvBuild(RUNTIME, ""), Quiet())
    half = tmp_path / "venvs" / "half"
    half.mkdir()
    (tmp_path / "venvs" / "half.lock").touch()
    with venvs._locks.hold("running", Quiet()):
        venvs.sweep()
        assert (tmp_path / "venvs" / "running.lock").exists()
    assert venvs.find(whole.key) == whole
    assert not half.exists()


def test_equal_venvs_share_one_key_and_others_do_not() -> None:
    """The key depends on runtime, lock and layout, and on nothing else."""
    build = VenvBuild(RUNTIME, "six==1.16.0\n")
    assert build.key() == replace(build, apt_packages=()).key()
    other_base = replace(RUNTIME, base="/another")
    others = [replace(build, lock=""), replace(build, runtime=other_base), replace(build, layout=2)]
    assert len({build.key(), *(other.key() for other in others)}) == 4


@pytest.mark.parametrize("minor", ["3.9", "3.13"])
def test_other_versions_side_by_side(venvs: Venvs, tools: Tools, wheel: Wheel, minor: str) -> None:
    """Venvs of other CPythons are built beside ours, each with its exact version."""
    chosen = interpreters.choose(minor, interpreters.list_installed(tools.uv, tools.env, Quiet()))
    if chosen is None:
        pytest.skip(f"this machine has no CPython {minor}")
    wheel("alpha", "1.0")
    runtime = RuntimeRef(minor, str(chosen.version), str(chosen.path))
    lock = venvs.lock(runtime.base, runtime.resolved, ["alpha"], Quiet())
    image = venvs.build(VenvBuild(runtime, lock), Quiet())
    code = "import alpha, platform; print(platform.python_version())"
    said = subprocess.run([python_of(image), "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == image.python == str(chosen.version)
    assert image.python.startswith(f"{minor}.")


def test_an_adopted_venv_is_never_changed(venvs: Venvs, wheel: Wheel, tmp_path: Path) -> None:
    """A virtual environment of the host is found by its content; checks write nothing to it; a removal leaves it."""
    wheel("alpha", "1.0")
    folder = tmp_path / "theirs"
    Path(venvs.build(VenvBuild(RUNTIME, locked(venvs, "alpha")), Quiet()).ref).rename(folder)
    (module,) = folder.glob("lib/python3*/site-packages/alpha.py")
    module.write_text("y = 1\n")
    for name, metadata in (("nameless", "Version: 1\n"), ("empty", None)):
        left = module.parent / f"{name}-1.dist-info"
        left.mkdir()
        if metadata is not None:
            (left / "METADATA").write_text(metadata)
    files = sorted(folder.rglob("*"))
    image = venvs.adopt(folder, ["alpha"], Quiet())
    assert (image.ref, image.python, image.foreign) == (str(folder), VERSION, True)
    assert [package.name for package in image.packages] == ["alpha"]
    assert venvs.find(image.key) == image
    assert venvs.adopt(folder, [], Quiet()) == image
    with pytest.raises(InvalidRequest, match="import nope raises"):
        venvs.adopt(folder, ["nope"], Quiet())
    venvs.remove(image.key)
    assert venvs.find(image.key) is None
    assert sorted(folder.rglob("*")) == files
    with pytest.raises(InvalidRequest, match=r"no file pyvenv\.cfg"):
        venvs.adopt(tmp_path, [], Quiet())
    (folder / "lib").rename(folder / "gone")
    with pytest.raises(InvalidRequest, match="site-packages"):
        venvs.adopt(folder, [], Quiet())
