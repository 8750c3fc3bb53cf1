"""Archives of directories: what is sent of them, and what of foreign ones is refused."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from venvd_contract.errors import InvalidRequest, LimitExceeded
from venvd_worker.files import archives
from venvd_worker.files.archives import Archive, extract


class Receiver:
    """Keeps what an archive sends."""

    def __init__(self) -> None:
        self.data = b""

    def send_bytes(self, data: bytes) -> None:
        self.data += data

    def send_file(self, file: int, offset: int, length: int) -> bool:
        data = os.pread(file, length, offset)
        self.data += data
        return len(data) == length


def pack(directory: Path, offset: int = 0, length: int | None = None) -> bytes:
    descriptor = os.open(directory, os.O_PATH)
    try:
        archive, receiver = Archive(descriptor, []), Receiver()
        archive.send(receiver, offset, archive.size if length is None else length)  # type: ignore[arg-type]
    finally:
        os.close(descriptor)
    return receiver.data


def unpack(data: bytes, directory: Path, largest: int = 1 << 20) -> None:
    descriptor = os.open(directory, os.O_PATH)
    try:
        extract(io.BytesIO(data), descriptor, largest)
    finally:
        os.close(descriptor)


def make(*entries: tarfile.TarInfo, data: bytes = b"") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:") as archive:
        for entry in entries:
            entry.size = len(data) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "a" / ("long" * 50)).mkdir(parents=True)
    (top / "a" / ("long" * 50) / "file").write_bytes(os.urandom(5000))
    (top / "b").write_bytes(b"x" * 512)
    (top / "c").symlink_to("a")
    (top / "empty").write_bytes(b"")
    (top / os.fsdecode(b"\xff")).write_text("no UTF-8")
    return top


def test_a_directory_becomes_what_it_was(tree: Path, tmp_path: Path) -> None:
    """Tarfile reads the archive, and extracting it gives the same files, names and links."""
    data = pack(tree)
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        assert len(opened.getmembers()) == 7
    (tmp_path / "copy").mkdir()
    unpack(data, tmp_path / "copy")
    for path in tree.rglob("*"):
        copy = tmp_path / "copy" / path.relative_to(tree)
        assert copy.is_symlink() == path.is_symlink()
        assert copy.is_dir() or copy.read_bytes() == path.read_bytes()


def test_any_part_of_an_archive_can_be_sent(tree: Path) -> None:
    """Parts of any size, one after the other, are the whole."""
    whole = pack(tree)
    for size in (1000, 4096, len(whole)):
        assert (
            b"".join(pack(tree, start, min(size, len(whole) - start)) for start in range(0, len(whole), size)) == whole
        )


def test_a_file_that_changes_ends_the_archive_early(tree: Path) -> None:
    """No other bytes take the place of those that are missing."""
    descriptor = os.open(tree, os.O_PATH)
    archive, receiver = Archive(descriptor, []), Receiver()
    (tree / "b").write_bytes(b"y" * 100)
    archive.send(receiver, 0, archive.size)  # type: ignore[arg-type]
    os.close(descriptor)
    assert len(receiver.data) < archive.size - 512
    assert b"yyy" not in receiver.data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (make(entry("/etc/x")), "is absolute"),
        (make(entry("a/../../x")), r'has "\.\." as a part'),
        (make(entry("..", tarfile.DIRTYPE)), r'has "\.\." as a part'),
        (make(entry("l", tarfile.SYMTYPE, "/etc")), "may lead out"),
        (make(entry("l", tarfile.SYMTYPE, "../x")), "may lead out"),
        (make(entry("d/l", tarfile.SYMTYPE, "../../x")), "may lead out"),
        (make(entry("l", tarfile.SYMTYPE, "a/../../x")), "may lead out"),
        (make(entry("h", tarfile.LNKTYPE, "b")), "neither a file"),
        (make(entry("f", tarfile.FIFOTYPE)), "neither a file"),
        (make(entry("n", tarfile.CHRTYPE)), "neither a file"),
        (b"no archive" * 100, "no tar archive"),
        (make(entry("a"), data=b"x" * 5000)[:2000], "no tar archive"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, data: bytes, says: str) -> None:
    """Nothing that leads out or is no file is written, and neither is what stands before it."""
    directory = tmp_path / "in"
    directory.mkdir()
    with pytest.raises(InvalidRequest, match=says):
        unpack(data, directory)
    assert [*tmp_path.rglob("*")] == [directory]


def test_links_that_are_there_are_not_followed(tmp_path: Path) -> None:
    """A link in the way of an entry is an error, and one in its place is replaced."""
    directory = tmp_path / "in"
    directory.mkdir()
    (tmp_path / "outside").mkdir()
    (directory / "d").symlink_to("../outside")
    (directory / "f").symlink_to("../outside/f")
    with pytest.raises(InvalidRequest, match="links are not followed"):
        unpack(make(entry("d/x")), directory)
    unpack(make(entry("f"), data=b"new"), directory)
    assert (directory / "f").read_bytes() == b"new"
    assert [*(tmp_path / "outside").iterdir()] == []


@pytest.mark.parametrize("link", ["l", "d/l"])
def test_an_archive_cannot_write_through_its_own_link(tmp_path: Path, link: str) -> None:
    """An entry below a link of the same archive is an error."""
    with pytest.raises(InvalidRequest, match="links are not followed"):
        unpack(make(entry(link, tarfile.SYMTYPE, "."), entry(link + "/x")), tmp_path)


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are too large in all, and entries that are too many, are refused in both directions."""
    with pytest.raises(LimitExceeded, match="more than 100 bytes"):
        unpack(make(entry("a"), entry("b"), data=b"x" * 60), tmp_path, largest=100)
    monkeypatch.setattr(archives, "MOST_ENTRIES", 2)
    with pytest.raises(LimitExceeded, match="more than 2 entries"):
        unpack(make(entry("a"), entry("b"), entry("c")), tmp_path)
    assert [*tmp_path.iterdir()] == []
    for name in "abc":
        (tmp_path / name).touch()
    with pytest.raises(LimitExceeded, match="more than 2 entries"):
        pack(tmp_path)
