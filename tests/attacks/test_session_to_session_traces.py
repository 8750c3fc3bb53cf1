"""A session against those after it: what it leaves in shared places, and what it takes of shared quotas."""

from __future__ import annotations

import errno

from harness.attacks import Target
from harness.waiting import wait_until

HOLD = """
from multiprocessing import shared_memory
held = [shared_memory.SharedMemory(create=True, size=1 << 16) for _ in range(20)]
held[0].buf[0] = 7
[each.name for each in held]
"""
KEPT = """
import os
[name for name in names if os.path.exists("/dev/shm/" + name)]
"""


def test_shared_memory_goes_with_its_session(victim: Target) -> None:
    """A session tries to fill /dev/shm beyond its end: its files go with it, and those of another session stay."""
    with victim.session() as other:
        kept = victim.attack(HOLD, other)
        with victim.session() as attacker:
            names = victim.attack(HOLD, attacker)
            assert len(victim.attack(f"names = {names}\n{KEPT}", attacker)) == 20
        wait_until(lambda: victim.attack(f"names = {names}\n{KEPT}", other) == [], "its shared memory stays")
        assert victim.attack(f"names = {kept}\n{KEPT}", other) == kept
        assert victim.attack("held[0].buf[0]", other) == 7


def test_nothing_can_be_left_elsewhere(victim: Target) -> None:
    """A session tries to leave files in /tmp, /var/tmp, /run and beside its directory: the kernel refuses."""
    code = """
import os
left = []
for place in ("/tmp", "/var/tmp", "/run", "/run/lock", "/dev", "/dev/mqueue", os.path.expanduser("~/../..")):
    for make in (os.mkdir, lambda path: open(path, "w").close()):
        try: make(os.path.join(place, "left")); left.append(place)
        except OSError: pass
left
"""
    with victim.session() as attacker:
        assert victim.attack(code, attacker) == []


def test_directories_cannot_be_made_in_shared_memory(victim: Target) -> None:
    """A session tries to make directories, links and sockets in /dev/shm: the kernel refuses, or no other sees them."""
    code = """
import os, socket
def attempt(action, *arguments):
    try: return repr(action(*arguments))
    except OSError as error: return error.errno
[
    attempt(os.mkdir, "/dev/shm/left"), attempt(os.symlink, "/etc", "/dev/shm/left"),
    attempt(os.mkfifo, "/dev/shm/left"), attempt(socket.socket(socket.AF_UNIX).bind, "/dev/shm/left"),
]
"""
    with victim.session() as attacker:
        if set(victim.attack(code, attacker)) != {errno.EACCES}:
            with victim.session() as other:
                assert victim.attack("import os\nos.listdir('/dev/shm')", other) == []


def test_descriptors_in_flight(victim: Target) -> None:
    """A session tries to take all descriptors in flight of its user: it is refused, and other sessions start."""
    code = """
import array, os, socket
pairs, sent = [], 0
number = array.array("i", [os.open("/dev/null", os.O_RDONLY)] * 100)
try:
    while sent < 100_000:
        pairs.append(socket.socketpair())
        while True:
            pairs[-1][0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, number)], socket.MSG_DONTWAIT)
            sent += 100
except BlockingIOError:
    pass
except OSError as error:
    sent = error.errno
sent
"""
    with victim.session() as attacker:
        victim.attack(code, attacker)
        with victim.session() as other:
            assert victim.attack("6 * 7", other) == 42
        victim.serves()


def test_queued_signals(victim: Target) -> None:
    """A session tries to queue signals without end: it is refused at its limit, and other sessions start."""
    code = """
import ctypes, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
libc = ctypes.CDLL(None, use_errno=True)
queued = 0
while queued < 100_000 and libc.sigqueue(os.getpid(), int(signal.SIGRTMIN), ctypes.c_void_p(0)) == 0:
    queued += 1
[queued <= 1024, ctypes.get_errno()]
"""
    with victim.session() as attacker:
        assert victim.attack(code, attacker) == [True, errno.EAGAIN]
        with victim.session() as other:
            assert victim.attack("6 * 7", other) == 42
