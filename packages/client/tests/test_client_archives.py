"""Archives of directories that a session sends, also on a CPython whose `tarfile` checks nothing."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest

from venvd import _archives
from venvd.errors import BadReply

LINK, FILE, FOLDER = tarfile.SYMTYPE, tarfile.REGTYPE, tarfile.DIRTYPE
OUT = {
    "a file above": [("../out", FILE, "")],
    "a file of the root": [("/tmp/venvd-out", FILE, "")],
    "a link above": [("a", LINK, "..")],
    "a link to the root": [("a", LINK, "/etc")],
    "a link in a folder": [("d", FOLDER, ""), ("d/a", LINK, "../..")],
    "a file behind links": [("d", FOLDER, ""), ("d/a", LINK, "."), ("b", LINK, "d/a/../.."), ("b/out", FILE, "")],
}


@pytest.fixture(params=["tarfile checks", "venvd checks"], autouse=True)
def checks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "venvd checks":
        if sys.version_info >= (3, 12):
            pytest.skip("this CPython has filters in each release, and warns where none is chosen")
        monkeypatch.setattr(_archives, "_HAS_FILTERS", False)
    elif not _archives._HAS_FILTERS:
        pytest.skip("the tarfile of this CPython has no filters")


def make_archive(directory: Path, entries: list[tuple[str, bytes, str]]) -> Path:
    path = directory / "archive.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind, target in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.uid, entry.mode = kind, target, 4711, 0o7777
            archive.addfile(entry, io.BytesIO())
    return path


@pytest.mark.parametrize("entries", OUT.values(), ids=OUT)
def test_an_entry_that_leads_out_is_refused(tmp_path: Path, entries: list[tuple[str, bytes, str]]) -> None:
    """An archive with an entry outside the directory is a bad reply, and nothing is written there."""
    target = tmp_path / "inner" / "target"
    target.parent.mkdir()
    if entries == OUT["a file of the root"] and _archives._HAS_FILTERS:
        entries = [("/../tmp/venvd-out", FILE, "")]  # the filter takes a slash in front away
    archive = make_archive(tmp_path, entries)
    if entries == OUT["a file behind links"] and _archives._HAS_FILTERS and hasattr(tarfile, "LinkFallbackError"):
        _archives.unpack(archive, target)
        assert (target / "out").is_file()  # a filter of 2025 shortens the link, which then leads nowhere else
    else:
        with pytest.raises(BadReply, match="leads out of it"):
            _archives.unpack(archive, target)
    assert not (tmp_path / "inner" / "out").exists()
    assert not Path("/tmp/venvd-out").exists()


def test_files_belong_to_the_caller(tmp_path: Path) -> None:
    """Owner and mode of the session are left behind; links inside stay links."""
    entries = [("d", FOLDER, ""), ("d/file", FILE, ""), ("link", LINK, "d/file")]
    target = tmp_path / "target"
    _archives.unpack(make_archive(tmp_path, entries), target)
    stat = (target / "d" / "file").stat()
    assert (stat.st_uid, stat.st_mode & 0o7777) == (target.stat().st_uid, 0o755)
    assert (target / "link").readlink() == Path("d/file")
