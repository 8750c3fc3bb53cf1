"""Changes of a container as a layer: equal changes give equal bytes, and what foreign code wrote is not trusted."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from venvd_contract.errors import InvalidRequest
from venvd_engines.kubernetes import apt_install
from venvd_engines.kubernetes.changes import write_changes
from venvd_engines.kubernetes.packing import Layer


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def describe(folder: Path, entries: list[tarfile.TarInfo], removed: object = ()) -> None:
    """Write what a container that installs leaves; each file has its name as its content."""
    with tarfile.open(folder / "changes.tar", "w") as archive:
        for each in entries:
            content = each.name.encode() if each.isreg() else b""
            each.size = len(content)
            archive.addfile(each, io.BytesIO(content))
    (folder / "removed.json").write_text(json.dumps(removed))


def pack(folder: Path) -> tuple[Layer, dict[str, tarfile.TarInfo]]:
    out = io.BytesIO()
    layer = write_changes(folder, out)
    assert layer.size == len(out.getvalue())
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(out.getvalue()))) as archive:
        for each in archive.getmembers():
            if each.isreg() and ".wh." not in each.name:
                content = archive.extractfile(each)
                assert content is not None
                assert content.read() == each.name.encode()
        return layer, {each.name: each for each in archive.getmembers()}


def test_a_layer_has_the_changes(tmp_path: Path) -> None:
    """Owners, modes, times and links are those of the container, and a path that is gone has a whiteout."""
    describe(
        tmp_path,
        [
            entry("usr/bin/tool", mode=0o4755, gid=42, mtime=1_700_000_000, uname="someone"),
            entry("usr/bin/alias", tarfile.SYMTYPE, linkname="/usr/bin/tool", mode=0o777),
            entry("usr/bin/twin", tarfile.LNKTYPE, linkname="usr/bin/tool"),
            entry("etc/tool", tarfile.DIRTYPE, mode=0o750, uid=10),
        ],
        ["/etc/old", "/usr/share/doc"],
    )
    _, entries = pack(tmp_path)
    assert list(entries) == sorted(entries, key=lambda name: name.replace(".wh.", "").split("/"))
    assert set(entries) == {
        *("etc/.wh.old", "etc/tool", "usr/bin/alias", "usr/bin/tool", "usr/bin/twin", "usr/share/.wh.doc")
    }
    tool = entries["usr/bin/tool"]
    assert (tool.mode, tool.gid, tool.mtime, tool.uname) == (0o4755, 42, 1_700_000_000, "")
    assert (entries["etc/tool"].mode, entries["etc/tool"].uid) == (0o750, 10)
    assert entries["usr/bin/twin"].linkname == "usr/bin/tool"


def test_equal_changes_are_equal_layers(tmp_path: Path) -> None:
    """The order in which an installation wrote leaves no trace; another time of a file does."""
    layers = []
    for number, order in enumerate((1, -1, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        entries = [entry("a", mtime=1), entry("b/c"), entry("b.c", mtime=7 + (number == 2))]
        describe(folder, entries[::order], ["/x", "/y"][::order])
        layers.append(pack(folder)[0])
    assert layers[0] == layers[1] != layers[2]


@pytest.mark.parametrize(
    "forged",
    [
        entry("../etc/passwd"),
        entry("/etc/passwd"),
        entry("etc//passwd"),
        entry("etc/.wh.passwd"),
        entry("disk", tarfile.BLKTYPE),
        entry("link", tarfile.LNKTYPE, linkname="absent"),
        entry("link", tarfile.LNKTYPE, linkname="../../run/venvd/credentials"),
    ],
    ids=lambda each: f"{each.name} {each.linkname}",
)
def test_forged_changes_are_refused(tmp_path: Path, forged: tarfile.TarInfo) -> None:
    """A path that leads out, a whiteout in a name, a device, and a link to what the archive lacks are refused."""
    describe(tmp_path, [entry("a"), forged])
    with pytest.raises(InvalidRequest, match="left no list of its changes"):
        write_changes(tmp_path, io.BytesIO())


@pytest.mark.parametrize("removed", [["/../x"], ["x"], [""], [1], {"a": 1}, 7, "/a"])
def test_a_forged_list_of_what_is_gone_is_refused(tmp_path: Path, removed: object) -> None:
    """What is no list of absolute paths is refused."""
    describe(tmp_path, [], removed)
    with pytest.raises(InvalidRequest):
        write_changes(tmp_path, io.BytesIO())


def test_links_in_place_of_the_files_are_refused(tmp_path: Path) -> None:
    """A link to a Secret and a pipe that nothing writes are neither read nor waited for."""
    secret = tmp_path / "secret"
    secret.write_text('["/hidden"]')
    for name in ("changes.tar", "removed.json"):
        describe(tmp_path, [])
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(secret)
        with pytest.raises(InvalidRequest) as caught:
            write_changes(tmp_path, io.BytesIO())
        assert "hidden" not in caught.value.message
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(InvalidRequest):
            write_changes(tmp_path, io.BytesIO())
        (tmp_path / name).unlink()


def test_what_is_gone_is_listed_once() -> None:
    """A directory that is gone stands for what it held, and one that became a link has no whiteouts in it."""
    folder, file, link = (0o040755, 0, 0), (0o100644, 0, 0, 1, 1, 1, 1), (0o120777, 0, 0, 1, 1, 1, 1)
    before = {"/a": folder, "/a/b": folder, "/a/b/c": file, "/lib": folder, "/lib/x": file, "/var/log": folder}
    before["/var/log/old"] = file
    after = {"/a": folder, "/lib": link, "/var/log": folder}
    assert apt_install.list_removed(before, after) == ["/a/b"]


@pytest.mark.parametrize(
    ("path", "volatile"),
    [
        ("/var/log/dpkg.log", True),
        ("/var/cache/ldconfig/aux-cache", True),
        ("/var/cache/apt/archives/x.deb", True),
        ("/var/cache/debconf/config.dat", False),
        ("/var/cache/debconf/config.dat-old", True),
        ("/var/lib/dpkg/status", False),
        ("/var/lib/dpkg/status-old", True),
        ("/var/lib/apt/lists/x_Packages", True),
        ("/etc/machine-id", True),
        ("/etc/passwd-", True),
        ("/usr/lib/run/tool", False),
    ],
)
def test_no_image_has_volatile_files(path: str, volatile: bool) -> None:
    """Logs, lists, caches, locks and copies of before are left out; what packages need is not."""
    assert bool(apt_install.VOLATILE.match(path)) is volatile
