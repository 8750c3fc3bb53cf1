"""User code against the container of its worker host, on the docker engine: what it cannot see, reach or do."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from harness.attacks import Target
from harness.callers import Caller
from harness.stack import Running, SharedStacks, Stack
from harness.waiting import wait_until

from venvd_contract.errors import SessionLost, Unavailable, VenvdError

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def engine(stacks: SharedStacks) -> Stack:
    return stacks.stack("docker")


@pytest.fixture
def running(victim: Target) -> Running:
    return victim.running


@pytest.fixture
def call(victim: Target) -> Iterator[Caller]:
    with victim.caller() as call:
        yield call


def evaluate(call: Caller, code: str) -> Any:
    return call("eval", {"expression": code}).get("value")


def inspect_container(running: Running, role: str) -> dict[str, Any]:
    """Return what the engine knows of one of the backend's containers."""
    filters = [f"label=dev.venvd.launch={running.record.launch_id}", f"label=dev.venvd.role={role}"]
    command = ["docker", "ps", "-q", *(word for rule in filters for word in ("--filter", rule))]
    (key,) = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    text = subprocess.run(["docker", "inspect", key], capture_output=True, text=True, check=True).stdout
    container: dict[str, Any] = json.loads(text)[0]
    return container


def test_the_servers_environment_is_hidden(call: Caller) -> None:
    """User code tries to read the server's settings in the environment of each process: it finds none."""
    code = """
import glob, os
seen = [repr(dict(os.environ))]
for path in glob.glob('/proc/*/environ'):
    try: seen.append(open(path, 'rb').read().decode('utf-8', 'replace'))
    except OSError: pass
'canary-of-the-server' in ''.join(seen) or 'TOKEN' in ''.join(seen)
"""
    assert evaluate(call, code) is False


def test_the_servers_processes_are_hidden(call: Caller) -> None:
    """User code tries to find the server's processes: it sees only the warden, the zygote and sessions."""
    code = """
import glob
lines = []
for path in glob.glob('/proc/[0-9]*/cmdline'):
    try: lines.append(open(path, 'rb').read().replace(b'\\0', b' ').decode())
    except OSError: pass
[line for line in lines if 'backend' in line or 'uvicorn' in line]
"""
    assert evaluate(call, code) == []


def test_the_servers_files_are_hidden(call: Caller) -> None:
    """User code tries to find the server's packages and a Docker socket: the worker host holds neither."""
    code = "import os; [p for p in ('/opt/venv', '/var/run/docker.sock', '/run/docker.sock') if os.path.exists(p)]"
    assert evaluate(call, code) == []


@pytest.mark.parametrize("address", ["8.8.8.8", "172.17.0.1", "169.254.169.254", "10.0.0.1"])
def test_no_address_can_be_reached(call: Caller, address: str) -> None:
    """User code tries to reach the internet, the host and its metadata service without `network`: no route exists."""
    code = f"""
import socket
s = socket.socket(); s.settimeout(2)
try: s.connect(('{address}', 80)); answer = 'reached'
except OSError as error: answer = error.errno
s.close()
answer
"""
    assert evaluate(call, code) in {errno.ENETUNREACH, errno.EHOSTUNREACH}


def test_only_loopback_exists(call: Caller) -> None:
    """User code tries to find an interface: the worker host has only loopback."""
    assert evaluate(call, "import socket; [name for _, name in socket.if_nameindex()]") == ["lo"]


def test_the_root_is_read_only(call: Caller) -> None:
    """User code tries to write everywhere: it can write only to its working and its temporary directory."""
    code = """
import os
written = []
for place in ('/', '/env', '/usr', '/etc', '/venvd', '/venvd/worker', '/home', '/var', '/tmp', '/work'):
    try: open(os.path.join(place, 'x'), 'w').close(); written.append(place)
    except OSError: pass
import tempfile
open('here', 'w').close(); open(os.path.join(tempfile.gettempdir(), 'there'), 'w').close()
written
"""
    assert evaluate(call, code) == []


def test_user_code_has_no_privileges(call: Caller) -> None:
    """User code tries to find privileges: it is not root, has no capability and cannot gain one."""
    code = """
import os
status = dict(line.split(':', 1) for line in open('/proc/self/status') if ':' in line)
[os.getuid() != 0, status['CapEff'].strip(), status['CapBnd'].strip(), status['NoNewPrivs'].strip()]
"""
    assert evaluate(call, code) == [True, "0" * 16, "0" * 16, "1"]


def test_killing_everything_leaves_the_server(call: Caller) -> None:
    """User code tries to kill every process that it sees: it loses its session, and the server serves on."""
    code = """
import os, signal
for pid in [int(name) for name in os.listdir('/proc') if name.isdigit() and int(name) != os.getpid()]:
    try: os.kill(pid, signal.SIGKILL)
    except OSError: pass
os.kill(os.getpid(), signal.SIGKILL)
"""
    with pytest.raises(SessionLost):
        evaluate(call, code)
    assert call("ping") == {"status": "ok"}

    def answers() -> bool:
        try:
            return bool(evaluate(call, "1 + 1") == 2)
        except Unavailable:  # the process that was starting for the session was killed too
            return False

    wait_until(answers, "the session does not come back")


def test_the_warden_cannot_be_stopped_from_inside(call: Caller) -> None:
    """User code tries to end the warden by signals: the worker host stays."""
    code = """
import os
refused = []
for number in (1, 2, 3, 9, 15) if os.getpid() != 1 else ():
    try: os.kill(1, number)
    except PermissionError: refused.append(number)
others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
[refused, 1 in others]
"""
    assert evaluate(call, code) in ([[1, 2, 3, 9, 15], True], [[], False])  # in a PID namespace it sees no warden
    assert evaluate(call, "1") == 1


@pytest.mark.parametrize("role", ["server", "worker"])
def test_both_containers_are_hardened(running: Running, role: str) -> None:
    """User code tries to find a guard that is off: both containers have every setting of SECURITY.md."""
    container = inspect_container(running, role)
    host = container["HostConfig"]
    assert container["Config"]["User"].split(":")[0] not in {"", "0", "root"}
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in " ".join(host["SecurityOpt"])
    assert host["ReadonlyRootfs"] is True
    assert host["Memory"] > 0
    assert host["Memory"] == host["MemorySwap"]
    assert host["PidsLimit"] > 0
    assert host["NanoCpus"] > 0 or host["CpuQuota"] > 0
    assert host["LogConfig"]["Config"]["max-size"]
    assert not host["Privileged"]
    assert not [mount for mount in container["Mounts"] if "docker.sock" in mount["Source"]]


def test_the_containers_have_different_users(running: Running) -> None:
    """User code tries to act as the server's user: server and worker host run as different user IDs."""
    users = {inspect_container(running, role)["Config"]["User"].split(":")[0] for role in ("server", "worker")}
    assert len(users) == 2


def test_the_token_is_in_no_container(running: Running) -> None:
    """A reader of `docker inspect` tries to find the token: no container's configuration holds it."""
    for role in ("server", "worker"):
        assert running.token not in json.dumps(inspect_container(running, role))


def test_a_fork_bomb_stays_inside(call: Caller) -> None:
    """User code tries a fork bomb: it reaches the limit and ends with its session, and the server serves on."""
    code = """
import os, time
made = 0
try:
    while made < 2000:
        if os.fork() == 0:
            time.sleep(60); os._exit(0)
        made += 1
except OSError: pass
made
"""
    try:
        made = call("eval", {"expression": code}, timeout=60).get("value")
    except VenvdError as error:
        ended = error.code
    else:
        ended = "limit" if made < 2000 else "none"
    assert ended in {"timeout", "session_lost", "limit_exceeded", "limit"}
    call("session.reset", {"id": "default"})
    assert evaluate(call, "1 + 1") == 2


def test_memory_without_end_stays_inside(call: Caller) -> None:
    """User code tries to take all memory: its session is ended with an error that says so, and the server serves."""
    with pytest.raises(VenvdError, match=r"(?i)memory"):
        call("eval", {"expression": "x = []\nwhile True: x.append(bytearray(1 << 24))"}, timeout=120)
    assert evaluate(call, "1 + 1") == 2
