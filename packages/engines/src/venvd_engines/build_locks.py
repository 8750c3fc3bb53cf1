"""One build of a key at a time, among all threads and processes of this machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from venvd_contract.errors import Unavailable
from venvd_engines.engine import Progress

_POLL_SECONDS = 0.1
SUFFIX = ".lock"


class BuildLocks:
    """Locks as files `KEY.lock` in a directory.

    The kernel releases the lock of a process that ends. Programs that inherit the descriptor keep the lock until they
    end as well. A file is removed on release; only a killed process leaves one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextlib.contextmanager
    def hold(self, key: str, progress: Progress) -> Iterator[int]:
        """Wait for the lock of a key and yield its descriptor.

        Raises:
            Cancelled: by `progress.check`, while another build holds the lock.
        """
        waited = False
        while True:
            with self.try_hold(key) as descriptor:
                if descriptor is not None:
                    yield descriptor
                    return
            if not waited:
                progress.phase("wait")
                progress.log("another build of the same image is running")
                waited = True
            progress.check()
            time.sleep(_POLL_SECONDS)

    @contextlib.contextmanager
    def try_hold(self, key: str) -> Iterator[int | None]:
        """Yield the descriptor of the lock, or None if another build holds it."""
        path = self.path(key)
        descriptor = self._open(path)
        try:
            if not try_lock(descriptor) or not _is_file_at(path, descriptor):
                yield None
                return
            try:
                yield descriptor
            finally:
                with contextlib.suppress(OSError):  # it may be another user's, in a shared directory
                    path.unlink()
        finally:
            os.close(descriptor)

    def path(self, key: str) -> Path:
        """Return the path of the lock file of a key."""
        return self._directory / f"{key}{SUFFIX}"

    def list_keys(self) -> list[str]:
        """List the keys with a lock file: of running builds, and of builds whose process was killed."""
        return sorted(path.stem for path in self._directory.glob(f"*{SUFFIX}"))

    def _open(self, path: Path) -> int:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            while True:
                with contextlib.suppress(FileExistsError):
                    # readable by others: builds of several users may share a key
                    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
                with contextlib.suppress(FileNotFoundError):
                    return os.open(path, flags | (os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY))
        except OSError as error:
            raise Unavailable(f"the lock {path} cannot be opened: {error.strerror}") from None


def try_lock(descriptor: int) -> bool:
    """Lock an open file or directory. Return False if another descriptor has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_file_at(path: Path, descriptor: int) -> bool:
    """Return whether the locked file is still at its path. Its last owner may have removed it."""
    with contextlib.suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False
