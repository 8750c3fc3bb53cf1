"""A program for the container that installs Debian packages: it records which files of the container change.

It runs as root on the base image's interpreter, without `site`, and the scripts of the packages run beside it. So
venvd does not trust its files. Arguments: the directory for `changes.tar` and `removed.json`, `--option=NAME=VALUE` for
each option of apt, and the names of the packages. Runs on CPython 3.9 and newer.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path

LISTS, UNKNOWN, INSTALLATION = 3, 4, 5
"""The exit statuses: no package lists, a package that the lists lack, and a failed installation."""
APT_GET = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "-o", "Dpkg::Use-Pty=0")
VOLATILE = re.compile(
    r"/(tmp|run|var/(tmp|run|log|lib/apt/lists)|root/\.cache)/"
    r"|/var/cache/(?!debconf/(config|templates|passwords)\.dat$)"
    r"|/var/lib/dpkg/(lock|triggers/Lock$|[^/]*-old$)|/etc/\.pwd\.lock$|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$"
    r"|/(etc|var/lib/dbus)/machine-id$"
)
"""Files that no image gets: they differ between two equal installations, or serve only the next one."""
ENV = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": "0", "HOME": "/root"}


def list_mounts() -> set[str]:
    """List the mount points in the container. Their content is not part of it."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = (line.split()[4] for line in lines)
    return {re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point) for point in points} - {"/"}


def scan(mounts: set[str]) -> dict[str, tuple[int, ...]]:
    """Read the state of every file and directory of the container, by its path."""
    found: dict[str, tuple[int, ...]] = {}
    folders = ["/"]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.path in mounts:
                    continue
                status = entry.stat(follow_symlinks=False)
                state: tuple[int, ...] = (status.st_mode, status.st_uid, status.st_gid)
                if stat.S_ISDIR(status.st_mode):
                    folders.append(entry.path)
                else:
                    state += (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
                found[entry.path] = state
    return found


def list_removed(before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]]) -> list[str]:
    """List the removed paths. A directory stands for its whole content, also if it became something else."""

    def has_folder(path: str) -> bool:
        parent = path.rpartition("/")[0]
        return not parent or stat.S_ISDIR(after.get(parent, (0,))[0])

    return sorted(path for path in before.keys() - after.keys() if has_folder(path) and not VOLATILE.match(path))


def pack(paths: list[str], started: float, archive: Path) -> None:
    """Write files with their owners and modes. A file that is younger than the installation gets a fixed time."""
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in paths:
            entry = tar.gettarinfo(path, path[1:])
            if entry is None:  # a socket
                continue
            entry.mtime = 0 if entry.mtime >= started else int(entry.mtime)
            if entry.isreg():
                with Path(path).open("rb") as file:
                    tar.addfile(entry, file)
            else:
                tar.addfile(entry)
    archive.chmod(0o644)


def run(command: list[str], status: int) -> None:
    """Run a command with the program's output. End the program if the command fails."""
    if subprocess.run(command, env={**os.environ, **ENV}, stderr=subprocess.STDOUT, check=False).returncode != 0:
        sys.exit(status)


def check_known(names: list[str]) -> None:
    """End the program if no package has one of the names. Its last line lists the known names, and similar ones."""
    answer = subprocess.run(["apt-cache", "pkgnames"], stdout=subprocess.PIPE, text=True, check=True).stdout
    known = set(answer.split())
    if not known.issuperset(names):
        near = [similar for name in names for similar in difflib.get_close_matches(name, known, 1, cutoff=0.8)]
        sys.stdout.write(json.dumps(sorted(known.intersection(names) | set(near))) + "\n")
        sys.exit(UNKNOWN)


def main(out: Path, words: list[str]) -> None:
    options = [word.partition("=")[2] for word in words if word.startswith("--option=")]
    names = [word for word in words if not word.startswith("--option=")]
    apt_get = [*APT_GET, *(word for option in options for word in ("-o", option))]
    mounts = list_mounts()
    before, started = scan(mounts), time.time() - 1
    run([*apt_get, "update"], LISTS)
    check_known(names)
    run([*apt_get, "install", "-y", "--no-install-recommends", "--no-remove", *names], INSTALLATION)
    after = scan(mounts)
    changed = [path for path, state in after.items() if before.get(path) != state and not VOLATILE.match(path)]
    pack(sorted(changed, key=lambda path: path.split("/")), started, out / "changes.tar")
    (out / "removed.json").write_text(json.dumps(list_removed(before, after)))
    (out / "removed.json").chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
