"""A session against the files of another session of the same backend, which it knows by their paths."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any

import pytest
from harness.attacks import Target

SECRET = "the-secret-of-a-tenant"
CLOSED = {errno.EACCES, errno.ENOENT, errno.EROFS}
"""What the kernel says of the files of another session: that they are closed or, in a mount namespace, not there."""
TRY = """
import os
def attempt(action, *arguments):
    try:
        return repr(action(*arguments))
    except OSError as error:
        return error.errno
"""


@dataclass
class Pair:
    """Two sessions of one backend, and the directory of the one that is attacked."""

    target: Target
    attacker: str
    other: str
    root: str

    def attack(self, code: str) -> Any:
        return self.target.attack(f"root = {self.root!r}\n{TRY}\n{code}", self.attacker)

    def intact(self) -> None:
        """The other session has its files, and no others."""
        content = self.target.attack("import os\n[open('secret').read(), sorted(os.listdir())]", self.other)
        assert content == [SECRET, ["secret"]]


@pytest.fixture(scope="module")
def pair(victim: Target, sessions: tuple[str, str]) -> Pair:
    code = f"import os\nopen('secret', 'w').write({SECRET!r})\nos.path.dirname(os.getcwd())"
    return Pair(victim, *sessions, victim.attack(code, sessions[1]))


@pytest.mark.parametrize(
    "code",
    [
        "attempt(lambda: open(root + '/files/secret').read())",
        "attempt(lambda: open(root + '/files/secret', 'a').write('x'))",
        "attempt(os.truncate, root + '/files/secret', 0)",
        "attempt(os.listdir, root)",
        "attempt(os.listdir, root + '/files')",
        "attempt(lambda: list(os.scandir(root + '/home')))",
        "attempt(lambda: open(root + '/files/new', 'w'))",
        "attempt(os.mkdir, root + '/files/new')",
        "attempt(os.symlink, '/etc', root + '/files/new')",
        "attempt(os.mkfifo, root + '/tmp/new')",
        "attempt(os.unlink, root + '/files/secret')",
        "attempt(os.rmdir, root + '/home')",
    ],
)
def test_the_files_of_another_session_are_closed(pair: Pair, code: str) -> None:
    """A session tries to read, list, change, make or remove files of another session: the kernel refuses."""
    assert pair.attack(code) in CLOSED
    pair.intact()


@pytest.mark.parametrize(
    "code",
    [
        "attempt(os.rename, root + '/files/secret', 'mine')",
        "attempt(os.link, root + '/files/secret', 'mine')",
        "open('planted', 'w').close()\nattempt(os.rename, 'planted', root + '/files/planted')",
    ],
)
def test_files_cannot_be_moved_between_sessions(pair: Pair, code: str) -> None:
    """A session tries to move or link files out of another session's directory, or into it: the kernel refuses."""
    assert pair.attack(code) in {*CLOSED, errno.EXDEV}
    pair.intact()


def test_a_link_leads_nowhere(pair: Pair) -> None:
    """A session tries a symbolic link in its own directory to a file of another: the link opens nothing."""
    code = "import uuid\nname = uuid.uuid4().hex\nos.symlink(root + '/files/secret', name)\n"
    assert pair.attack(code + "attempt(lambda: open(name).read())") in CLOSED


def test_children_stand_behind_the_same_walls(pair: Pair) -> None:
    """A session tries to read another's file by a program, and by a child of `multiprocessing`: the kernel refuses."""
    code = """
import subprocess, multiprocessing
shown = subprocess.run(["cat", root + "/files/secret"], capture_output=True, text=True)
with multiprocessing.get_context("fork").Pool(1) as pool:
    forked = pool.apply(attempt, (os.listdir, root))
[shown.returncode, shown.stdout, forked]
"""
    *read, listed = pair.attack(code)
    assert (read, listed in CLOSED) == ([1, ""], True)


def test_directories_cannot_be_listed_or_guessed(pair: Pair) -> None:
    """A session tries to find the directories of others by listing, by inotify and by counting: no name is found."""
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
work = os.path.dirname(root)
listed = attempt(os.listdir, work)
watched = libc.inotify_init1(0), ctypes.get_errno()
[listed, watched, len(os.path.basename(root)), os.path.basename(os.path.dirname(os.getcwd())) != os.path.basename(root)]
"""
    listed, *others = pair.attack(code)
    own = pair.target.attack("import os\nos.path.basename(os.path.dirname(os.getcwd()))", pair.attacker)
    assert listed in (errno.EACCES, f"['{own}']")
    assert others == [[-1, errno.ENOSYS], 16, True]


def test_a_directory_in_the_way_of_the_next_session(pair: Pair) -> None:
    """A session tries to make a directory where the next process of a session will work: reset goes on working."""
    code = """
work = os.path.dirname(os.path.dirname(os.getcwd()))
[attempt(os.mkdir, os.path.join(work, f"{name}-{number}")) for name in ("default", "s1") for number in (2, 3, 4)]
"""
    assert set(pair.attack(code)) <= CLOSED
    with pair.target.caller() as call:
        call("session.reset", {"id": pair.other})
        assert call("eval", {"expression": "6 * 7"}, session=pair.other) == {"value": 42}
    again = f"import os\nopen('secret', 'w').write({SECRET!r})\nos.path.dirname(os.getcwd())"
    pair.root = pair.target.attack(again, pair.other)


def test_the_channel_is_closed(pair: Pair) -> None:
    """A session tries to list, read and replace what server and worker host share: the kernel refuses."""
    code = """
found = [line.split()[4] for line in open("/proc/self/mountinfo") if "channel" in line]
place = found[0] if found else os.path.dirname(os.path.dirname(root)) + "/channel"
[attempt(os.listdir, place), attempt(os.unlink, place + "/warden.sock"), attempt(lambda: open(place + "/x", "w"))]
"""
    listed, unlinked, made = pair.attack(code)
    assert listed in (errno.EACCES, "[]")
    assert {made, unlinked} <= CLOSED


def test_shared_memory_cannot_be_listed(pair: Pair) -> None:
    """A session tries to find another's shared memory in /dev/shm: names are long, and nothing lists them."""
    made = """
from multiprocessing import shared_memory
held = shared_memory.SharedMemory(create=True, size=4096)
held.buf[:6] = b"secret"
held.name
"""
    name = pair.target.attack(made, pair.other)
    assert pair.attack("attempt(os.listdir, '/dev/shm')") in (errno.EACCES, "[]")
    assert pair.attack("attempt(lambda: os.listdir(os.open('/dev/shm', os.O_RDONLY | os.O_DIRECTORY)))") in (
        errno.EACCES,
        "[]",
    )
    assert len(name) >= 36
    assert pair.target.attack("held.close(); held.unlink(); 1", pair.other) == 1
