"""User code against its own worker host and server, over the connections that it shares with them."""

from __future__ import annotations

import contextlib

import pytest
from harness.attacks import Target
from harness.engines import OCI_RUNTIME
from harness.waiting import wait_until

SOCKETS = """
import fcntl, os, socket, stat
def sockets():
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                found.append(number)
        except OSError:
            pass
    return found
"""
PASS_OUT = (
    SOCKETS
    + """
import array, errno
sent = 0
passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [os.open(os.devnull, os.O_RDONLY)]))]
for number in sockets():
    sock = socket.socket(fileno=os.dup(number))
    if sock.type == socket.SOCK_SEQPACKET:
        try:
            sent += bool(sock.sendmsg([b'{"gone":[]}'], passed, socket.MSG_DONTWAIT))
        except OSError as error:  # gVisor's kernel refuses it
            sent += error.errno == errno.EINVAL
sent
"""
)
MAKE_BLOCKING = (
    SOCKETS
    + """
for number in sockets():
    fcntl.fcntl(number, fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) & ~os.O_NONBLOCK)
len(sockets())
"""
)
STEAL_OUTPUT = """
import fcntl, os, subprocess, threading
output = {os.fstat(number).st_ino for number in (1, 2)}
numbers = [number for number in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{number}")]
pipes = [os.dup(number) for number in numbers if number > 2 and os.fstat(number).st_ino in output]
child = subprocess.Popen(["sh", "-c", "while true; do echo x; done"])
go = threading.Event()
def steal(pipe):
    go.wait()
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    while fcntl.fcntl(pipe, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY and os.read(pipe, 1 << 16):
        pass
for pipe in pipes:
    threading.Thread(target=steal, args=(pipe,), daemon=True).start()
"""
GREEDY = (
    SOCKETS
    + """
import json
asked = 0
for number in sockets():
    sock = socket.socket(fileno=os.dup(number))
    if sock.type == socket.SOCK_SEQPACKET:
        for _ in range(100):
            try:
                asked += bool(sock.send(b'{"want":1048576}', socket.MSG_DONTWAIT))
            except OSError:
                break
asked
"""
)


def channel_of(target: Target) -> str:
    if target.stack.engine.name != "local":
        return "/run/venvd/channel"
    return str(target.stack.home / "backends" / target.running.record.launch_id / "channel")


def test_no_secret_and_no_socket_are_left(victim: Target) -> None:
    """A session tries to become the warden: the secret and the socket were gone before it began."""
    code = "import os\ntry:\n    found = os.listdir({!r})\nexcept PermissionError:\n    found = []\nfound"
    assert victim.attack(code.format(channel_of(victim))) in ([], ["taken"])  # Landlock keeps the channel out of sight
    code = "import socket\nsocket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect_ex({!r} + '/warden.sock')"
    assert victim.attack(code.format(channel_of(victim))) != 0
    victim.serves()


@pytest.mark.docker
def test_the_channel_is_read_only(victim: Target) -> None:
    """A session tries to put a socket of its own into the channel, and to remove the mark: the kernel refuses."""
    code = """
import os, socket
said = []
for attempt in (
    lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind(channel + "/warden.sock"),
    lambda: os.unlink(channel + "/taken"),
    lambda: os.rename(channel + "/taken", channel + "/gone"),
    lambda: os.chmod(channel, 0o777),
):
    try:
        attempt()
        said.append("done")
    except OSError as error:
        said.append(error.errno)
said
"""
    done = victim.attack(f"channel = {channel_of(victim)!r}\n{code}")
    if victim.stack.engine.name == "local" or OCI_RUNTIME == "runsc":
        done.pop()  # the owner of a directory may change its mode; under gVisor an empty one covers the channel
    assert "done" not in done
    victim.serves()


def test_descriptors_do_not_travel_outwards(victim: Target) -> None:
    """A session tries to pass a descriptor to its warden and its server over each connection: both drop it."""
    with victim.session() as name:
        assert victim.attack(PASS_OUT, session=name) >= 1
    victim.serves()


def test_connections_that_are_made_blocking(victim: Target) -> None:
    """A session tries to block its server by clearing O_NONBLOCK on what they share: they share no description."""
    with victim.session() as name:
        assert victim.attack(MAKE_BLOCKING, session=name) >= 2
        victim.serves()
        assert victim.attack("1 + 1", session=name) == 2


def test_output_that_is_stolen_from_the_warden(victim: Target) -> None:
    """A session tries to block its warden on a pipe that it made blocking and reads empty: another process reads it."""
    with victim.session() as name:
        with victim.caller() as call:
            assert call("exec", {"code": STEAL_OUTPUT}, session=name)["error"] is None
            assert call("exec", {"code": "go.set()"}, session=name)["error"] is None  # the warden has the pipes by now
        for _ in range(3):
            with victim.session() as other:
                assert victim.attack("6 * 7", session=other) == 42
    victim.serves()


def test_segments_that_are_not_taken(victim: Target) -> None:
    """A session tries to fill its server with segments that it does not take: it is ended, and the others go on."""
    with victim.session() as name:
        with contextlib.suppress(Exception):  # each transport has an error of its own for a session that is ended
            victim.attack(GREEDY, session=name)
        with victim.caller() as call:
            wait_until(lambda: call("session.get", {"id": name})["restarts"], "the session is not replaced")
        victim.serves()
