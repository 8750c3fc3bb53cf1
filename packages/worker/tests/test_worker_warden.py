"""The warden's own protocol: one server at a time, and sessions that never outlive it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from venvd_contract.errors import Conflict, InvalidRequest, NotFound
from venvd_contract.internal import PROTOCOL

pytestmark = pytest.mark.slow


def test_hello_tells_who_is_there(host: Any, python: str, archives: Any) -> None:
    """`hello` is answered with the worker's version, the interpreter's, and when it started."""
    assert host.hello["worker"] == re.search(r"-([0-9a-f]{12})\.pyz", str(archives(python)))[1]
    assert re.fullmatch(r"3\.\d+\.\d+", host.hello["python"])
    assert host.hello["pid"] == host.process.pid
    assert host.hello["startedAt"].endswith("Z")
    with pytest.raises(Conflict):
        host.request("hello", protocol=PROTOCOL, slots=1)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"command": "frobnicate"}, "start"),
        ({"command": ["start"]}, "start"),
        ({"command": "start"}, "session"),
        ({"command": "start", "session": "x", "slot": 99}, "slot 99"),
        ({"command": "start", "session": "x", "slot": -1}, "slot"),
        ({"command": "start", "session": "x", "slot": True}, "slot"),
        ({"command": "start", "session": "x", "slot": 1, "env": {"A": 1}}, "env"),
        ({"command": "start", "session": "x", "slot": 1, "limits": []}, "limits"),
    ],
)
def test_bad_requests_are_refused(host: Any, fields: dict[str, Any], named: str) -> None:
    """A request that makes no sense is answered with what is wrong, and the warden goes on."""
    with pytest.raises(InvalidRequest, match=named):
        host.request(fields["command"], **{name: fields[name] for name in fields if name != "command"})


def test_names_of_sessions(host: Any, session: Any) -> None:
    """A name that runs is a conflict, one that does not is not found."""
    with pytest.raises(Conflict, match=session.name):
        host.request("start", session=session.name, slot=session.index)
    with pytest.raises(InvalidRequest, match="descriptors of a stream"):
        host.request("start", session="without", slot=session.index)
    for command in ("interrupt", "kill", "attach"):
        with pytest.raises(NotFound, match="nobody"):
            host.request(command, session="nobody", sequence=1, reason="timeout", terms={})
    with pytest.raises(InvalidRequest, match="descriptor"):
        host.request("attach", session=session.name, terms={})
    with pytest.raises(InvalidRequest, match="cancelled"):
        host.request("interrupt", session=session.name, sequence=1, reason="boredom")


def test_a_standby_gets_its_name(host: Any, start: Any) -> None:
    """A session that waits takes calls at once under the name that it is given, once, and ends under that name."""
    session, other = start(standby=True), start()
    with pytest.raises(Conflict, match=other.name):
        host.request("assign", session=session.name, name=other.name)
    with pytest.raises(InvalidRequest, match="name"):
        host.request("assign", session=session.name, name="../../up")
    before, session.name = session.name, "assigned"
    assert host.request("assign", session=before, name="assigned") == {}
    assert session.eval("6 * 7") == 42
    with pytest.raises(InvalidRequest, match="has its name already"):
        host.request("assign", session="assigned", name="again")
    with pytest.raises(NotFound, match=before):
        host.request("kill", session=before, reason="it is gone")
    assert "assigned" in host.request("stats")["sessions"]


def test_session_names_stay_inside_the_work_directory(host: Any) -> None:
    """A name with slashes makes no directory outside."""
    with pytest.raises(InvalidRequest, match="name"):
        host.request("start", session="../../up", slot=0)


def test_stats(host: Any, start: Any) -> None:
    """`stats` sums memory, time and processes over each session's tree."""
    session = start()
    session.eval("import subprocess\nkept = bytearray(b'x') * (30 << 20)\np = subprocess.Popen(['sleep', '60'])\n1")
    stats = host.request("stats")
    mine = stats["sessions"][session.name]
    assert mine["processes"] == 2
    assert mine["rssBytes"] > mine["pssBytes"] > 30 << 20
    assert mine["cpuSeconds"] > 0
    assert stats["warden"]["rssBytes"] > 1 << 20


LIES = """
import json, os, socket
for number in sorted(map(int, os.listdir("/proc/self/fd"))):
    try:
        found = socket.socket(fileno=os.dup(number))
    except OSError:
        continue
    if found.type == socket.SOCK_SEQPACKET:
        for lie in json.loads(lies):
            found.send(json.dumps(lie).encode())
"""


def test_a_session_cannot_garble_what_the_server_reads(host: Any, start: Any) -> None:
    """What a session says to the warden is passed on only as far as it is of the right form."""
    session = start()
    half = "\ud800"
    lies = [
        {"refused": "1"}, {"refused": 1 << 80}, {"refused": -1}, {"refused": 7, "why": half * 5000},
        {"gone": []}, {"segment": {"name": half, "size": 1}}, {"log": half}, {"log": "stderr"},
    ]  # fmt: skip
    session.eval(LIES + "1", lies=json.dumps(lies))
    refusal = host.event(lambda event: event["event"] == "refused")
    assert (refusal["connection"], refusal["why"]) == (7, "?" * 2000)
    assert not [event for event in host.held() if event["event"] == "refused"]


def test_a_server_that_goes_takes_the_worker_host_along(new_host: Any, tools: Any) -> None:
    """When the server's connection ends, every session ends with its tree, then the warden, which leaves nothing."""
    host = new_host()
    session = host.start("default")
    child = session.eval("import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True).pid")
    host.sock.close()
    assert host.process.wait(30) == 0
    assert not tools.alive(child)
    assert not tools.alive(session.pid)
    assert list(host.work.iterdir()) == []


def test_a_warden_empties_directories(new_host: Any, tmp_path: Path) -> None:
    """What an earlier worker host left in directories that outlive it is gone; the directories stay."""
    outside = tmp_path / "outside"
    outside.write_text("stays")
    used = tmp_path / "used"
    (used / "session" / "files").mkdir(parents=True)
    (used / "session" / "files").chmod(0)
    (used / "file").write_text("left")
    (used / "link").symlink_to(outside)
    host = new_host("--clear", str(used))
    assert list(used.iterdir()) == []
    assert outside.read_text() == "stays"
    assert host.start("default").eval("6 * 7") == 42


@pytest.mark.parametrize("packet", [b"nonsense", b"[]", b"\xff", b"x" * 200_000])
def test_a_garbled_server_is_dropped(new_host: Any, packet: bytes) -> None:
    """What is no packet of the protocol ends the connection, and with it the warden."""
    host = new_host()
    host.sock.send(packet)
    assert host.sock.recv(100) == b""
    assert host.process.wait(30) == 0


def test_commands_before_hello(new_host: Any) -> None:
    """`hello` comes first, and takes exactly the slots' descriptor; until then no process of the user's runs."""
    host = new_host("--preload", "json", greet=False)
    for command, fields, said in (
        ("stats", {}, "first"),
        ("hello", {"protocol": PROTOCOL, "slots": 4}, "descriptor"),
        ("hello", {"protocol": PROTOCOL + 1, "slots": 4}, "protocol"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            host.request(command, **fields)
    assert Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text() == ""


def test_the_secret_is_in_no_place_that_user_code_reads(host: Any, start: Any) -> None:
    """Neither environment nor command line of a process, nor a file of the channel, shows the secret to a session."""
    code = """
import glob, os
def contents(path):
    try:
        return open(path, "rb").read()
    except OSError:
        return b""
seen = [*glob.glob("/proc/[0-9]*/environ"), *glob.glob("/proc/[0-9]*/cmdline"), *glob.glob(channel + "/warden*")]
[path for path in seen if secret.encode() in contents(path)]
"""
    assert start().eval(code, channel=str(host.directory), secret=host.secret) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything(new_host: Any, tools: Any, number: int) -> None:
    """A warden that is told to stop ends its sessions with their trees, removes their directories, and exits 0."""
    host = new_host()
    session = host.start()
    child = session.eval("import subprocess\nopen('f', 'w').close()\nsubprocess.Popen(['sleep', '600']).pid")
    host.process.send_signal(number)
    assert host.process.wait(30) == 0
    assert not tools.alive(child)
    assert not tools.alive(session.pid)
    assert list(host.work.iterdir()) == []


def test_a_stop_waits_for_the_server(new_host: Any) -> None:
    """With `--stop-wait` a call that runs at the stop signal is answered; the warden ends when its server has gone."""
    host = new_host("--stop-wait", "600")
    session = host.start()
    code = "import os, time\nprint('in')\nwhile not os.path.exists('go'): time.sleep(0.01)"
    session.send("exec", {"code": code}, stream=True)
    session.shown("in")
    host.process.send_signal(signal.SIGTERM)
    assert host.request("stats")["sessions"]
    (session.files / "go").touch()
    assert "error" not in session.reply()
    host.sock.close()
    assert host.process.wait(30) == 0


@pytest.mark.parametrize(("seconds", "signals"), [("0.2", 1), ("600", 2)])
def test_a_stop_does_not_wait_forever(new_host: Any, tools: Any, seconds: str, signals: int) -> None:
    """The wait for the server ends with `--stop-wait`, and with a second signal."""
    host = new_host("--stop-wait", seconds)
    session = host.start()
    host.process.send_signal(signal.SIGTERM)
    if signals == 2:
        # a signal that is pending still is one with the next: the warden must have read the first
        tools.wait_for(lambda: int(_read_status(host.pid)["ShdPnd"], 16) == 0)
        assert session.eval("1") == 1
        host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(30) == 0
    assert not tools.alive(session.pid)


def _read_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_sessions_die_with_their_warden(new_host: Any, tools: Any) -> None:
    """A warden that is killed takes its sessions along."""
    host = new_host()
    session = host.start()
    session.eval("1")
    host.process.kill()
    tools.wait_for(lambda: not tools.alive(session.pid))


def test_no_descriptors_are_lost(new_host: Any, tools: Any) -> None:
    """Sessions that come and go leave the warden with the descriptors that it had."""
    host = new_host()

    def count() -> int:
        return int(host.request("stats")["warden"]["descriptors"])

    def one() -> None:
        session = host.start("again")
        session("exec", {"code": "import subprocess\nsubprocess.Popen(['sleep', '60'])"})
        host.kill(session)
        session.exited()
        session.close()

    one()
    most = count() + SPARES  # of which none may have been there yet
    for _ in range(10):
        one()
    assert count() <= most


def test_user_code_cannot_read_the_warden(host: Any, session: Any) -> None:
    """The warden's memory and descriptors are closed to others of its user; root, as here, may look."""
    status = session.eval(f"open('/proc/{host.process.pid}/status').read()")
    assert "Name" in status
    assert session.eval(f"import os\nos.stat('/proc/{host.process.pid}/fd').st_uid") == 0


SPARES = 2
"""Forks of the zygote that wait, each with a descriptor of the warden's."""
FORGED = """
import ctypes, os, signal, struct
libc = ctypes.CDLL(None, use_errno=True)
RT_SIGQUEUEINFO = {"x86_64": 129, "aarch64": 138}[os.uname().machine]
for number in (signal.SIGTERM, signal.SIGINT):
    os.kill(1, number)
    for code in [*range(-128, 0), 0, 1, 128]:
        info = struct.pack("=iiiiii", number, 0, code, 0, 0, 0).ljust(128, bytes(1))
        libc.syscall(RT_SIGQUEUEINFO, 1, int(number), info)
    read, write = os.pipe()
    import fcntl
    fcntl.fcntl(read, fcntl.F_SETOWN, 1)
    fcntl.fcntl(read, 10, int(number))  # F_SETSIG
    fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(write, b"x")
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGHUP, signal.SIGUSR1):
    os.kill(1, number)
print("sent")
"""


def test_process_1_heeds_only_signals_from_outside(new_host: Any, tools: Any) -> None:
    """As process 1 of a PID namespace the warden survives every signal from inside, and obeys signals from outside."""
    if os.geteuid() != 0:
        pytest.skip("a PID namespace takes root")
    namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    tried = subprocess.run([*namespace, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this machine makes no PID namespace here: {tried.stderr.strip()}")
    # the first process cleans the shared memory of a container
    own_memory = ("sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")
    host = new_host(within=[*namespace, *own_memory])
    assert host.hello["pid"] == 1
    session = host.start()
    # a process of the namespace that no wall holds, as where the kernel has no Landlock
    within = ["nsenter", f"--target={host.pid}", "--pid", "--mount", sys.executable, "-c", FORGED]
    assert subprocess.run(within, capture_output=True, text=True, check=True, timeout=30).stdout == "sent\n"
    assert session.eval("1") == 1
    assert host.start().eval("1") == 1
    os.kill(host.pid, signal.SIGTERM)
    assert host.process.wait(30) == 0


def test_files_of_other_programs_stay(new_host: Any, tools: Any) -> None:
    """The warden removes the shared memory of a session that it ends, but not what that used of another program."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as foreign:
        foreign.write(b"kept")
        foreign.flush()
        host = new_host()
        session = host.start()
        session(
            "exec", {"code": f"import os; kept, own = open({foreign.name!r}), open(f'/dev/shm/{os.getpid()}', 'w')"}
        )
        own = Path(session.eval("own.name"))
        assert own.exists()
        host.kill(session)
        tools.wait_for(lambda: not own.exists())
        assert Path(foreign.name).read_bytes() == b"kept"


def test_a_session_is_heard(session: Any, tools: Any) -> None:
    """What the server asks it to write down it writes into its slot; that is no call, and not answered."""
    assert session.eval("1") == 1
    session.write(b'{"heartbeat":7}\n')
    tools.wait_for(lambda: session.slot.heartbeat == 7)
    assert session.slot.calls == 1
    assert session.eval("2") == 2
