"""The files of secrets of servers. They are only in memory if this user has a directory on a tmpfs.

`/dev/shm` is not used: each session may read it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from venvd_contract.errors import Unavailable
from venvd_engines.local import state

FILE = "secrets.json"

_MOUNTS = Path("/proc/self/mounts")


class SecretFiles:
    """Writes and removes the files of secrets.

    Args:
        home_id: names the directory of the files.
        candidates: where the directory may be; the first one on a tmpfs that this user may write to is taken.
        fallback: where the directory is if there is no such candidate.
    """

    def __init__(self, home_id: str, candidates: Sequence[Path], fallback: Path) -> None:
        types = _read_mounts()
        usable = (path for path in candidates if os.access(path, os.W_OK) and _find_type(path, types) == "tmpfs")
        self.root = next(usable, fallback) / f"secrets-{home_id}"
        """The directory of the files. User code does not see it."""

    def path(self, launch_id: str) -> Path:
        return self.root / launch_id / FILE

    def write(self, launch_id: str, data: bytes) -> None:
        """Write the file of a launch in one step.

        Raises:
            Unavailable: another user has the directory, or it cannot be made.
        """
        directory = self.root / launch_id
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.root.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
                raise Unavailable(f"{self.root} is not this user's own directory: remove it")
            directory.mkdir(mode=0o700, exist_ok=True)
            state.write_whole(directory / FILE, data.decode())
        except OSError as error:
            raise Unavailable(f"the secrets cannot be written to {directory}: {error.strerror}") from None

    def remove(self, launch_id: str) -> None:
        """Remove the file of a launch. It is not an error if the file is absent."""
        shutil.rmtree(self.root / launch_id, ignore_errors=True)
        with contextlib.suppress(OSError):  # it may contain the directories of other launches
            self.root.rmdir()


def list_candidates(run_dir: Path) -> list[Path]:
    """List the directories that are on a tmpfs on many machines. Only root may write to the last one."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    return [run_dir, *([Path(own)] if own else []), Path(f"/run/user/{os.getuid()}"), Path("/run")]


def _read_mounts() -> dict[str, str]:
    """Read the types of the mounted file systems, by mount point."""
    try:
        lines = _MOUNTS.read_text().splitlines()
    except OSError:
        return {}
    return {fields[1]: fields[2] for fields in (line.split(" ") for line in lines)}


def _find_type(path: Path, types: Mapping[str, str]) -> str | None:
    real = path.resolve()
    return next((types[str(each)] for each in (real, *real.parents) if str(each) in types), None)
