"""Layers of environments: the same files give the same bytes, and what code of packages left is not trusted."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from venvd_contract.errors import InvalidRequest
from venvd_engines.kubernetes.layer import Layer, read_packages, write_layer


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    (folder / "bin" / "tool").chmod(0o775)
    (folder / "bin" / "python").symlink_to("/usr/bin/python3")


def pack(folder: Path) -> tuple[Layer, bytes]:
    out = io.BytesIO()
    return write_layer(folder, "env", out), out.getvalue()


def test_equal_files_are_equal_layers(tmp_path: Path) -> None:
    """Order of creation, times, and the umask of an installation leave no trace in a layer."""
    names = ["bin/tool", "lib/b.py", "lib/a.py", "lib/a/c.py", "lib/ü.py"]
    one, other = tmp_path / "one", tmp_path / "other"
    fill(one, names)
    fill(other, names[::-1])
    for path in other.rglob("*.py"):
        path.chmod(0o600)
        os.utime(path, (1, 1))
    (other / "lib").chmod(0o700)
    first, packed = pack(one)
    assert (first, packed) == pack(other)
    (other / "lib" / "a.py").write_text("something else")
    assert pack(other)[0].diff_id != first.diff_id


def test_a_layer_holds_files_for_any_user(tmp_path: Path) -> None:
    """A layer has directories, files and links with their modes, owned by root, and no pipes."""
    folder = tmp_path / "env"
    fill(folder, ["bin/tool", "lib/a.py"])
    os.mkfifo(folder / "pipe")
    (folder / "bin" / "tool").chmod(0o6755)
    layer, packed = pack(folder)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as archive:
        entries = {entry.name: entry for entry in archive.getmembers()}
        content = archive.extractfile("env/lib/a.py")
        assert content is not None
        assert content.read() == b"content of lib/a.py"
    assert set(entries) == {"env", "env/bin", "env/bin/tool", "env/bin/python", "env/lib", "env/lib/a.py"}
    assert entries["env/bin/python"].linkname == "/usr/bin/python3"
    assert [entries[name].mode for name in ("env", "env/bin/tool", "env/lib/a.py")] == [0o755, 0o755, 0o644]
    assert {(entry.uid, entry.gid, entry.mtime) for entry in entries.values()} == {(0, 0, 0)}
    assert layer.size == len(packed)


def test_a_list_of_packages_is_read(tmp_path: Path) -> None:
    """What an installation wrote is read as names and versions."""
    path = tmp_path / "packages.json"
    path.write_text('[["six", "1.16.0"]]\n')
    assert read_packages(path) == '[["six", "1.16.0"]]'


def test_a_forged_list_of_packages_is_refused(tmp_path: Path) -> None:
    """A link to a Secret, a pipe that nothing writes, a huge file and other JSON are no list of packages."""
    secret = tmp_path / "secret"
    secret.write_text('[["password", "hidden"]]')
    forged = tmp_path / "packages.json"
    forged.symlink_to(secret)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="left no list of its packages") as caught:
            read_packages(forged)
        assert "hidden" not in caught.value.message
        forged.unlink()
        os.mkfifo(forged)
    forged.unlink()
    for content in ("{}x", '{"a": 1}', "[1, 2]", "[" + '["six", "1"],' * 200_000 + '["six", "1"]]'):
        forged.write_text(content)
        with pytest.raises(InvalidRequest):
            read_packages(forged)
