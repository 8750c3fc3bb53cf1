"""The directories of sessions: makes one for each session, and removes it in any state that user code leaves it in."""

from __future__ import annotations

import os
import stat
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import List

FILES, HOME, TEMPORARY = "files", "home", "tmp"
_NAME_BYTES = 12


@dataclass(frozen=True)
class Directory:
    """The directory of one session. Other users have no rights to it."""

    root: str

    @property
    def files(self) -> str:
        """The working directory of the session."""
        return os.path.join(self.root, FILES)

    @property
    def home(self) -> str:
        return os.path.join(self.root, HOME)

    @property
    def temporary(self) -> str:
        return os.path.join(self.root, TEMPORARY)


def make(work_dir: str) -> Directory:
    """Make a directory whose name no code can guess. The name is short, because paths of sockets must be short."""
    directory = Directory(os.path.join(work_dir, urlsafe_b64encode(os.urandom(_NAME_BYTES)).decode()))
    for path in (directory.root, directory.files, directory.home, directory.temporary):
        os.mkdir(path, 0o700)
    return directory


def is_intact(directory: Directory) -> bool:
    """Return whether all that `make` made is still there."""
    return all(map(os.path.isdir, (directory.files, directory.home, directory.temporary)))


def remove(root: str) -> None:
    """Remove `root` and all below it. Leave what the kernel does not let this process remove.

    This moves each directory inside up before it empties it. So no depth is too deep for a path or for recursion.
    """
    pending: List[str] = [root]
    moved = 0
    while pending:
        directory = pending.pop()
        for entry in _entries(directory):
            if not _is_directory(entry):
                _try(os.unlink, entry)
                continue
            moved += 1
            target = "{}.{}".format(root, moved)
            _try(os.chmod, entry, stat.S_IRWXU)  # moving a directory writes into it
            if _try(os.rename, entry, target):
                pending.append(target)
        _try(os.rmdir, directory)


def clear(directory: str) -> None:
    """Remove all below `directory`. Leave what the kernel does not let this process remove."""
    for entry in _entries(directory):
        if _is_directory(entry):
            remove(entry)
        else:
            _try(os.unlink, entry)


def _entries(directory: str) -> List[str]:
    _try(os.chmod, directory, stat.S_IRWXU)
    try:
        return [os.path.join(directory, name) for name in os.listdir(directory)]
    except OSError:
        return []


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _try(action: object, *arguments: object) -> bool:
    try:
        action(*arguments)  # type: ignore[operator]
    except OSError:
        return False
    return True
