from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest
import uv
from harness.stack import Quiet
from packaging.version import Version

from venvd_contract.errors import InvalidRequest, NotFound
from venvd_engines.local import environment, interpreters
from venvd_engines.local.interpreters import Interpreter

UV = uv.find_uv_bin()
ENV = environment.for_installer({}, None)
MINOR = f"3.{sys.version_info.minor}"


def known(*versions: str) -> list[Interpreter]:
    return [Interpreter(Version(version), Path(f"/python{version}")) for version in versions]


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("3.13", "3.13.5"),
        ("3.13.0", "3.13.0"),
        ("3.13.4", None),
        ("3.1", None),
        ("3.14", "3.14.0"),
        ("3.15", "3.15.0b2"),
        ("3.15.0b1", "3.15.0b1"),
        ("3.15.0", None),
    ],
)
def test_the_newest_that_was_asked_for_is_chosen(asked: str, chosen: str | None) -> None:
    """A minor version means its newest release, or pre-release where there is none; a full version only itself."""
    there = known("3.13.0", "3.13.5", "3.13.2", "3.14.0", "3.14.1rc1", "3.15.0b1", "3.15.0b2", "3.12.9")
    interpreter = interpreters.choose(asked, there)
    assert (str(interpreter.version) if interpreter else None) == chosen


@pytest.mark.slow
def test_our_own_version_is_found_and_answered() -> None:
    """A CPython of this minor version is found, as a real program that says its exact version."""
    interpreter = interpreters.find(MINOR, UV, ENV, Quiet())
    assert interpreter.version == MINOR
    assert interpreter.resolved.startswith(f"{MINOR}.")
    path = Path(interpreter.base)
    assert path == path.resolve()
    assert "shims" not in path.parts
    assert interpreters.ask(path, ENV) == Interpreter(Version(interpreter.resolved), path)


@pytest.mark.slow
def test_every_version_comes_once() -> None:
    """Links, shims and venvs of one CPython are one interpreter."""
    installed = interpreters.list_installed(UV, ENV, Quiet())
    assert len({one.path for one in installed}) == len(installed)
    assert Version(platform.python_version().rstrip("+")) in {one.version for one in installed}


def test_shims_are_replaced_by_what_they_stand_for(tmp_path: Path) -> None:
    """The interpreters of pyenv are searched instead of its shims, which fail for versions not chosen globally."""
    for version in ("3.9.18", "3.13.0", "pypy3.9", "2.7.18"):
        (tmp_path / "versions" / version / "bin").mkdir(parents=True)
    searched = interpreters.search_path({"PATH": "/a/shims:/usr/bin", "PYENV_ROOT": str(tmp_path)})
    assert searched.split(os.pathsep) == [
        "/usr/bin",
        str(tmp_path / "versions/3.13.0/bin"),
        str(tmp_path / "versions/3.9.18/bin"),
    ]


@pytest.mark.parametrize(
    "script",
    [
        "exit 127",
        "echo nonsense",
        """echo '{"name": "pypy", "version": "3.11.0", "threads": true, "path": "/x"}'""",
        """echo '{"name": "cpython", "version": "3.8.0", "threads": true, "path": "/x"}'""",
        """echo '{"name": "cpython", "version": "3.13.0", "threads": false, "path": "/x"}'""",
    ],
)
def test_what_is_no_usable_cpython_is_not_believed(tmp_path: Path, script: str) -> None:
    """A program that fails, says nothing that can be read, or is too old or another Python is passed over."""
    program = tmp_path / "python3.13"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    assert interpreters.ask(program, ENV) is None


@pytest.mark.slow
def test_a_version_that_is_nowhere_names_those_there_are() -> None:
    """Where a version is neither here nor to be had, the error says why and lists what this machine has."""
    env = {**ENV, "UV_OFFLINE": "1"}
    with pytest.raises(NotFound) as error:
        interpreters.find(f"{MINOR}.99", UV, env, Quiet())
    assert f"no CPython {MINOR}.99" in error.value.message
    assert "could not be fetched (" in error.value.message
    assert platform.python_version().rstrip("+") in error.value.message
    assert "://" not in error.value.message


@pytest.mark.parametrize("version", ["3.8", "3.0", "3.8.18"])
def test_a_version_too_old_for_the_worker_is_refused(version: str) -> None:
    """Nothing is searched for a CPython that the worker does not run on."""
    with pytest.raises(InvalidRequest, match=r"too old: 3\.9 or newer"):
        interpreters.find(version, UV, ENV, Quiet())


@pytest.mark.parametrize("version", ["2.7", "latest", "3", "3.13.x", "3.13; rm", ""])
def test_what_is_no_version_is_refused(version: str) -> None:
    """A version is written as 3.13 or 3.13.5."""
    with pytest.raises(InvalidRequest, match=r"3\.13 or 3\.13\.5"):
        interpreters.find(version, UV, ENV, Quiet())
