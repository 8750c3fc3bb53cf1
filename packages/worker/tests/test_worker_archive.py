"""The archive: one file with sources and bytecode, nothing but the standard library."""

from __future__ import annotations

import os
import stat
import subprocess
import zipfile
import zipimport
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from venvd_contract.errors import UserError
from venvd_worker import archive as archives


def test_the_name_says_the_version(tmp_path: Path) -> None:
    """The file's name holds the 12 digits that `version` gives."""
    assert archives.build(tmp_path).name == f"venvd-worker-{archives.version()}.pyz"
    assert len(archives.version()) == 12


def test_the_same_sources_give_the_same_archive(tmp_path: Path) -> None:
    """Two builds have the same name, members and sources, and are readable for other users."""
    one, other = archives.build(tmp_path / "one"), archives.build(tmp_path / "other")
    assert one.name == other.name
    assert stat.S_IMODE(one.stat().st_mode) == 0o644
    with zipfile.ZipFile(one) as first, zipfile.ZipFile(other) as second:
        assert first.namelist() == second.namelist()
        assert all(first.read(name) == second.read(name) for name in first.namelist() if name.endswith(".py"))


def test_it_is_made_once(tmp_path: Path) -> None:
    """An archive that is there already is left alone, and a build leaves nothing else behind."""
    made = archives.build(tmp_path)
    before = made.stat().st_mtime_ns, made.stat().st_ino
    assert archives.build(tmp_path) == made
    assert (made.stat().st_mtime_ns, made.stat().st_ino) == before
    assert os.listdir(tmp_path) == [made.name]


def test_it_holds_the_sources_of_two_packages(archive: Path) -> None:
    """Contract, worker and the main program are in it, each with its bytecode."""
    names = zipfile.ZipFile(archive).namelist()
    assert {"__main__.py", "venvd_worker/warden/warden.py", "venvd_contract/commands.py"} <= set(names)
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"__main__.py", "__main__.pyc", "venvd_worker", "venvd_contract"}
    sources = {name for name in names if name.endswith(".py")}
    assert {name.removesuffix("c") for name in names} == sources
    assert len(names) == 2 * len(sources)


def test_bytecode_is_what_its_source_means(archive: Path) -> None:
    """The CPython that made the archive loads the bytecode of each source, which tells the lines of that source."""
    importer = zipimport.zipimporter(str(archive))
    code = importer.get_code("venvd_contract/errors")
    assert code is not None
    assert code.co_filename == "venvd-worker.pyz/venvd_contract/errors.py"
    source = zipfile.ZipFile(archive).read("venvd_contract/errors.py")
    assert code == compile(source, code.co_filename, "exec", dont_inherit=True)


def test_every_cpython_runs_the_archive_of_another(new_host: Callable[..., Any], archive: Path) -> None:
    """A warden and a session start from the sources where the bytecode is not theirs, and hide their own frames."""
    session = new_host(archive=archive).start()
    assert session.eval("6 * 7") == 42
    with pytest.raises(UserError) as raised:
        session.eval("1 / 0")
    assert "ZeroDivisionError" in raised.value.traceback
    assert "venvd_worker" not in raised.value.traceback


def test_a_cpython_can_give_an_archive_its_own_bytecode(archive: Path, python: str, tmp_path: Path) -> None:
    """After `compile` that CPython accepts each member; sources, order and mode stay, and nothing else is left."""
    copy = tmp_path / archive.name
    copy.write_bytes(archive.read_bytes())
    copy.chmod(0o444)
    subprocess.run([python, "-I", "-S", copy, "compile"], check=True)
    code = "from importlib.util import MAGIC_NUMBER; print(MAGIC_NUMBER.hex())"
    magic = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(copy) as after:
        assert after.namelist() == before.namelist()
        sources = [name for name in after.namelist() if name.endswith(".py")]
        assert all(after.read(name) == before.read(name) for name in sources)
        assert {after.read(f"{name}c")[:4].hex() for name in sources} == {magic}
    assert (os.listdir(tmp_path), stat.S_IMODE(copy.stat().st_mode)) == ([copy.name], 0o444)


def test_wrong_words(archive: Path, python: str) -> None:
    """Without a program's name it says how to be used and fails."""
    for words in ([], ["frobnicate"], ["session"], ["warden"]):
        done = subprocess.run([python, "-I", archive, *words], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "usage" in done.stderr
        assert "Traceback" not in done.stderr
