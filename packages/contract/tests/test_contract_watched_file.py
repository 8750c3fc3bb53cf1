"""Files that programs read again after a change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from venvd_contract.watched_file import WatchedFile, find_version


def test_a_file_is_read_after_each_change(tmp_path: Path) -> None:
    """One that replaces it, with the same size and time of change, is a change too."""
    path, other = tmp_path / "number", tmp_path / "other"
    file = WatchedFile(path, int, 10)
    path.write_text("1")
    assert (file.read_changed(), file.read_changed()) == (1, None)
    other.write_text("2")
    status = path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert (file.read_changed(), file.read_changed()) == (2, None)


def test_a_file_is_read_again_after_an_error(tmp_path: Path) -> None:
    """Even if it has not changed, so that its reader knows that it is still bad."""
    path = tmp_path / "number"
    file = WatchedFile(path, int, 10)
    with pytest.raises(FileNotFoundError):
        file.read_changed()
    for content, says in (("one", "invalid literal"), ("1" * 11, "larger than 10 bytes")):
        path.write_text(content)
        for _ in range(2):
            with pytest.raises(ValueError, match=says):
                file.read_changed()
        assert file.version is None
    path.write_text("1" * 10)
    assert file.read_changed() == 1111111111
    assert file.version == find_version(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file.read_changed()


def test_a_file_that_is_missing_has_no_version(tmp_path: Path) -> None:
    """Nor has a path that is not given."""
    assert find_version(tmp_path / "missing") is find_version(None) is None
