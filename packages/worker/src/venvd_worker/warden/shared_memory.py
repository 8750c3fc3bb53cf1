"""Files in /dev/shm: finds the sessions that use them, and removes them when no session needs them.

The kernel does not tell which process made a file. So the warden looks which sessions have a new file open or mapped,
every second and before it ends a session. In a container, only sessions make files there. A file that no session has
open belongs to one of the sessions that lived when it appeared. The warden removes it with the last of them, or a
minute after one of them has ended. On a host, other programs make files there too. The warden removes none that it
found when it started, and none that it has not seen a session use.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from time import monotonic
from typing import Dict, Iterable, Set, Tuple

from venvd_worker.common import process_tree
from venvd_worker.warden.session_process import SessionProcess

_UNHELD_SECONDS = 60.0
_MOST_FILES = 10_000
"""Files that the warden notes; a tmpfs in a container has room for some more."""

_Key = Tuple[str, int]
"""Name and inode of a file. A new file may have an old name."""


@dataclass
class _File:
    """A file that the warden has noted.

    Attributes:
        makers: process IDs of the sessions of which one made the file.
        held: whether the warden has seen that a session had the file open or mapped.
    """

    makers: Set[int]
    held: bool = False
    orphan: bool = False
    """Whether one of the sessions that may have made the file has ended."""
    seen_at: float = field(default_factory=monotonic)


class SharedMemory:
    """Notes the files in `directory`. `private` says that only sessions make files there.

    Make it before the first session: if the directory is not private, it leaves the files alone that are there then.
    """

    def __init__(self, directory: str, *, private: bool) -> None:
        self._directory = directory
        self._private = private
        self._foreign: Set[_Key] = set()
        """Files that were there before all sessions."""
        if not private:
            self._foreign = self._list()
        self._files: Dict[_Key, _File] = {}

    def look(self, sessions: Iterable[SessionProcess]) -> None:
        """Note new files and the sessions that use them, and remove files that no session has used for long."""
        present = self._list()
        self._files = {key: file for key, file in self._files.items() if key in present}
        sessions = list(sessions)
        new = [key for key in present if key not in self._files]
        self._files.update((key, _File({session.pid for session in sessions})) for key in new)
        if any(not file.held for file in self._files.values()):
            self._note_holders(sessions)
        for key, file in list(self._files.items()):
            if file.orphan and not file.held and monotonic() - file.seen_at > _UNHELD_SECONDS:
                self._remove(key)

    def forget(self, session: SessionProcess, others: Iterable[SessionProcess]) -> None:
        """Remove the files that only this session used, because it has ended."""
        others = [other for other in others if other is not session]
        self.look([session, *others])
        mine = [file for file in self._files.values() if session.pid in file.makers]
        for file in mine:
            file.makers.discard(session.pid)
            file.orphan = True
        if any(not file.makers for file in mine):
            self._note_holders(others)
        for key, file in list(self._files.items()):
            if not file.makers:
                self._remove(key)

    def _list(self) -> Set[_Key]:
        """List the regular files in the directory that sessions may have made."""
        try:
            with os.scandir(self._directory) as entries:
                present = {
                    (entry.name, entry.inode())
                    for entry in itertools.islice(entries, _MOST_FILES)
                    if entry.is_file(follow_symlinks=False)
                }
        except OSError:
            return set()
        return present - self._foreign

    def _note_holders(self, sessions: Iterable[SessionProcess]) -> None:
        by_name = {os.path.join(self._directory, name): file for (name, _), file in self._files.items()}
        for session in sessions:
            for pid in session.list_tree():
                for path in _list_held(pid, self._directory):
                    file = by_name.get(path)
                    if file is None:
                        continue
                    if not file.held:
                        file.held, file.makers = True, set()
                    file.makers.add(session.pid)

    def _remove(self, key: _Key) -> None:
        file = self._files.pop(key)
        if not (file.held or self._private):
            return
        path = os.path.join(self._directory, key[0])
        try:
            if os.lstat(path).st_ino == key[1]:
                os.unlink(path)
        except OSError:
            pass


def _list_held(pid: int, directory: str) -> Set[str]:
    """List the files below `directory` that a process has open or mapped."""
    held = set()
    for line in process_tree.read_file("/proc/{}/maps".format(pid)).split(b"\n"):
        path = line.partition(b"/")
        if path[1]:
            held.add("/" + os.fsdecode(path[2]))
    try:
        descriptors = os.listdir("/proc/{}/fd".format(pid))
    except OSError:
        descriptors = []
    for descriptor in descriptors:
        try:
            held.add(os.readlink("/proc/{}/fd/{}".format(pid, descriptor)))
        except OSError:
            continue
    return {path for path in held if path.startswith(directory + "/")}
