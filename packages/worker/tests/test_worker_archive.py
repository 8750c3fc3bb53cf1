"""The archive: one file, the same bytes from the same sources, nothing but the standard library."""

from __future__ import annotations

import os
import stat
import subprocess
import zipfile
from pathlib import Path

from venvd_worker import archive as archives


def test_the_name_says_the_version(tmp_path: Path) -> None:
    """The file's name holds the 12 digits that `version` gives."""
    assert archives.build(tmp_path).name == f"venvd-worker-{archives.version()}.pyz"
    assert len(archives.version()) == 12


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    """Two builds do not differ in a byte, and are readable for other users."""
    one, other = archives.build(tmp_path / "one"), archives.build(tmp_path / "other")
    assert one.read_bytes() == other.read_bytes()
    assert stat.S_IMODE(one.stat().st_mode) == 0o644


def test_it_is_made_once(tmp_path: Path) -> None:
    """An archive that is there already is left alone, and a build leaves nothing else behind."""
    made = archives.build(tmp_path)
    before = made.stat().st_mtime_ns, made.stat().st_ino
    assert archives.build(tmp_path) == made
    assert (made.stat().st_mtime_ns, made.stat().st_ino) == before
    assert os.listdir(tmp_path) == [made.name]


def test_it_holds_the_sources_of_two_packages(archive: Path) -> None:
    """Contract, worker and the main program are in it, and no compiled file."""
    names = zipfile.ZipFile(archive).namelist()
    assert {"__main__.py", "venvd_worker/warden/warden.py", "venvd_contract/commands.py"} <= set(names)
    assert {name.partition("/")[0] for name in names} == {"__main__.py", "venvd_worker", "venvd_contract"}
    assert all(name.endswith(".py") for name in names)


def test_wrong_words(archive: Path, python: str) -> None:
    """Without a program's name it says how to be used and fails."""
    for words in ([], ["frobnicate"], ["session"], ["warden"]):
        done = subprocess.run([python, "-I", archive, *words], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "usage" in done.stderr
        assert "Traceback" not in done.stderr
