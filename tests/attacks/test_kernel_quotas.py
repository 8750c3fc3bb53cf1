"""User code of one backend against another backend: what the kernel counts for each user."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.attacks import Target
from harness.stack import SharedStacks, Stack

pytestmark = pytest.mark.docker

FLIGHT = """
import array, os, resource, socket
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
kept, sent = [], 0
descriptor = os.open(os.devnull, os.O_RDONLY)
message = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor] * 200))]
try:
    while sent < 20_000:
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        kept.append(pair)
        pair[0].sendmsg([b"x"], message)
        sent += 200
except OSError as error:
    refusal = error
sent
"""
PIPES = """
import os
pipes = []
try:
    while len(pipes) < 1500:
        pipes.append(os.pipe())
except OSError:
    pass
import fcntl
fcntl.fcntl(pipes[-1][0], fcntl.F_GETPIPE_SZ)
"""
ONE_DESCRIPTOR = """
import array, os, socket
mine, peer = socket.socketpair()
mine.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
len(socket.recv_fds(peer, 1, 1)[1])
"""
ONE_PIPE = "import fcntl, os\npair = os.pipe()\nfcntl.fcntl(pair[0], fcntl.F_GETPIPE_SZ)"


@pytest.fixture(scope="module")
def engine(stacks: SharedStacks) -> Stack:
    return stacks.stack("docker")


@pytest.fixture(autouse=True)
def fresh(neighbour: Target) -> Iterator[None]:
    """The attacker, here the neighbour, begins each attempt with an unused session."""
    yield
    with neighbour.caller() as call:
        call("session.reset", {"id": "default"})


def test_worker_hosts_are_different_users(neighbour: Target, victim: Target) -> None:
    """User code tries to be the user of another backend: each worker host has a user ID of its own."""
    ids = {target.attack("import os\nos.getuid()") for target in (neighbour, victim)}
    assert len(ids) == 2
    assert min(ids) >= 200_000


@pytest.mark.parametrize(
    ("attack", "probe", "right"),
    [
        pytest.param(FLIGHT, ONE_DESCRIPTOR, 1, id="descriptors-in-flight"),
        pytest.param(PIPES, ONE_PIPE, 65536, id="pages-of-pipes"),
    ],
)
def test_a_quota_is_used_up_for_the_attacker_alone(
    neighbour: Target, victim: Target, attack: str, probe: str, right: object
) -> None:
    """A backend tries to use up what the kernel grants a user: user code of another backend has its own share."""
    neighbour.attack(attack)
    assert victim.attack(probe) == right


def test_sessions_start_beside_descriptors_in_flight(neighbour: Target, victim: Target) -> None:
    """A backend tries to have the control packets of another dropped: sessions start there, and are reset."""
    assert neighbour.attack(FLIGHT) > 0
    with victim.session() as name, victim.caller() as call:
        assert victim.attack("1 + 1", name) == 2
        call("session.reset", {"id": name})
        assert victim.attack("1 + 1", name) == 2
