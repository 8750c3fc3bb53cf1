"""A session against the processes of another session of the same backend: signals, tracing, /proc, kernel objects."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any

import pytest
from harness.attacks import Target

TRY = """
import ctypes, os, resource, signal, socket
libc = ctypes.CDLL(None, use_errno=True)
def attempt(action, *arguments):
    try:
        return repr(action(*arguments))
    except OSError as error:
        return error.errno
def call(name, *arguments):
    number = {"x86_64": X86, "aarch64": ARM}[os.uname().machine][name]
    result = libc.syscall(number, *[ctypes.c_long(each) if isinstance(each, int) else each for each in arguments])
    return ctypes.get_errno() if result < 0 else "done"
X86 = {"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_open": 434,
       "pidfd_getfd": 438, "add_key": 248, "request_key": 249, "keyctl": 250, "userfaultfd": 323, "bpf": 321,
       "perf_event_open": 298, "io_uring_setup": 425, "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240,
       "fanotify_init": 300, "setpriority": 141, "sched_setscheduler": 144, "ioprio_set": 251, "tgkill": 234}
ARM = {"ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "pidfd_open": 434,
       "pidfd_getfd": 438, "add_key": 217, "request_key": 218, "keyctl": 219, "userfaultfd": 282, "bpf": 280,
       "perf_event_open": 241, "io_uring_setup": 425, "shmget": 194, "semget": 190, "msgget": 186, "mq_open": 180,
       "fanotify_init": 262, "setpriority": 140, "sched_setscheduler": 119, "ioprio_set": 30, "tgkill": 131}
"""


REFUSED = {errno.EPERM, errno.EACCES, errno.ENOENT, errno.ESRCH}
"""What the kernel says of a process of another session: it is closed or, in a PID namespace, there is none."""
NUMBER_ELSEWHERE = 500
"""A process ID that sessions in PID namespaces do not have."""


@dataclass
class Pair:
    """Two sessions of one backend, and the process that is attacked.

    Attributes:
        own: the process ID of the other session, as it sees it.
        pid: the number by which the attacker tries to reach it.
    """

    target: Target
    attacker: str
    other: str
    own: int
    pid: int

    def attack(self, code: str) -> Any:
        return self.target.attack(f"{TRY}\npid = {self.pid}\n{code}", self.attacker)

    def intact(self) -> None:
        """The other session is the process that it was, with its state."""
        assert self.target.attack("[os.getpid(), kept]", self.other) == [self.own, "kept"]


@pytest.fixture(scope="module")
def pair(victim: Target, sessions: tuple[str, str]) -> Pair:
    own = victim.attack("import os\nkept = 'kept'\nos.getpid()", sessions[1])
    return Pair(victim, *sessions, own, NUMBER_ELSEWHERE if own == 1 else own)


def test_no_number_leads_to_another(pair: Pair) -> None:
    """A session tries every process ID: the kernel refuses, or the namespace has only its own processes."""
    code = """
import os
reached = [number for number in range(2, 3000) if attempt(os.kill, number, 0) == "None"]
[os.getpid(), [number for number in reached if number != os.getpid()]]
"""
    number, reached = pair.attack(code)
    assert reached == []
    if number == 1:
        assert pair.attack("[name for name in os.listdir('/proc') if name.isdigit()]") == ["1"]


@pytest.mark.parametrize("number", ["SIGKILL", "SIGSTOP", "SIGINT", "SIGTERM", "SIGSEGV", "SIGCONT", "SIGUSR1"])
def test_signals_stay_inside(pair: Pair, number: str) -> None:
    """A session tries to signal another, its parent and the zygote: the kernel refuses."""
    code = f"[attempt(os.kill, each, signal.{number}) for each in (pid, os.getppid() or pid)]"
    assert set(pair.attack(code)) <= REFUSED
    pair.intact()


@pytest.mark.parametrize(
    "code",
    [
        "attempt(os.killpg, pid, signal.SIGKILL)",
        "call('tgkill', pid, pid, 9)",
        "attempt(lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL))",
    ],
)
def test_no_other_way_to_signal_works(pair: Pair, code: str) -> None:
    """A session tries to signal another by its group, its thread and its descriptor: the kernel refuses."""
    assert pair.attack(code) in REFUSED
    pair.intact()


def test_a_signal_to_everybody(pair: Pair) -> None:
    """A session tries to kill every process: it reaches those that it started itself."""
    code = """
import subprocess
child = subprocess.Popen(["sleep", "600"])
attempt(os.kill, -1, signal.SIGKILL)
child.wait(30)
"""
    assert pair.attack(code) == -9
    pair.intact()
    pair.target.serves()


def test_a_signal_from_a_descriptor(pair: Pair) -> None:
    """A session tries to have the kernel signal another when a pipe is written to: nothing comes."""
    code = """
import fcntl
read, write = os.pipe()
attempt(fcntl.fcntl, read, fcntl.F_SETOWN, pid)
fcntl.fcntl(read, 10, int(signal.SIGKILL))
fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
os.write(write, b"x")
"""
    assert pair.attack(code) == 1
    pair.intact()


@pytest.mark.parametrize("name", ["mem", "environ", "maps", "auxv", "syscall", "personality", "pagemap"])
@pytest.mark.parametrize("victim_of", ["pid", "os.getppid()"])
def test_memory_and_environment_are_closed(pair: Pair, name: str, victim_of: str) -> None:
    """A session tries to read another's memory and environment, and its parent's, below /proc: the kernel refuses."""
    code = f"attempt(lambda: open(f'/proc/{{{victim_of}}}/{name}', 'rb').read(16))"
    assert pair.attack(code) in REFUSED


@pytest.mark.parametrize("name", ["fd/1", "fdinfo/1", "map_files", "cwd", "root", "exe", "ns/mnt"])
def test_descriptors_are_closed(pair: Pair, name: str) -> None:
    """A session tries to take descriptors and places of another below /proc: the kernel refuses."""
    action = {"map_files": "os.listdir", "fdinfo/1": "open"}.get(name, "os.readlink")
    assert pair.attack(f"attempt({action}, f'/proc/{{pid}}/{name}')") in REFUSED


@pytest.mark.parametrize(("name", "text"), [("oom_score_adj", "1000"), ("coredump_filter", "0"), ("clear_refs", "1")])
def test_nothing_below_proc_can_be_written(pair: Pair, name: str, text: str) -> None:
    """A session tries to have the kernel end another first, and to change other settings of it: the kernel refuses."""
    assert pair.attack(f"attempt(lambda: open(f'/proc/{{pid}}/{name}', 'w').write('{text}'))") in REFUSED
    pair.intact()


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("call('ptrace', 16, pid, 0, 0)", errno.EPERM),
        ("call('process_vm_readv', pid, None, 0, None, 0, 0)", errno.EPERM),
        ("call('process_vm_writev', pid, None, 0, None, 0, 0)", errno.EPERM),
        ("call('kcmp', os.getpid(), pid, 0, 0, 0)", errno.EPERM),
        ("call('pidfd_getfd', os.pidfd_open(os.getpid()), 0, 0)", errno.EPERM),
        ("call('add_key', b'user', b'name', b'text', 4, -4)", errno.EPERM),
        ("call('request_key', b'user', b'name', None, 0)", errno.EPERM),
        ("call('keyctl', 0, -4, 1, 0, 0)", errno.EPERM),
        ("call('userfaultfd', 1)", errno.EPERM),
        ("call('bpf', 0, None, 0)", errno.EPERM),
        ("call('perf_event_open', None, 0, -1, -1, 0)", errno.EPERM),
        ("call('io_uring_setup', 8, None)", errno.ENOSYS),
        ("call('shmget', 0, 4096, 0o1600)", errno.ENOSYS),
        ("call('semget', 0, 1, 0o1600)", errno.ENOSYS),
        ("call('msgget', 0, 0o1600)", errno.ENOSYS),
        ("call('mq_open', b'name', 0o102, 0o600, None)", errno.ENOSYS),
        ("call('fanotify_init', 0, 0)", errno.ENOSYS),
        ("attempt(socket.socket, 40, socket.SOCK_STREAM)", errno.EAFNOSUPPORT),
        ("attempt(socket.socket, 38, socket.SOCK_SEQPACKET)", errno.EAFNOSUPPORT),
        ("attempt(socket.socket, 17, socket.SOCK_RAW)", errno.EAFNOSUPPORT),
    ],
    ids=lambda each: str(each)[:30] if isinstance(each, str) else "",
)
def test_the_filter_refuses(pair: Pair, code: str, number: int) -> None:
    """A session tries system calls that reach into others or leave something in the kernel: the filter refuses."""
    assert pair.attack(code) == number


@pytest.mark.parametrize(
    "code",
    [
        "attempt(resource.prlimit, pid, resource.RLIMIT_CPU, (1, 1))",
        "attempt(os.setpriority, os.PRIO_PROCESS, pid, 19)",
        "attempt(os.setpriority, os.PRIO_USER, 0, 19)",
        "attempt(os.sched_setscheduler, pid, os.SCHED_IDLE, os.sched_param(0))",
        "call('ioprio_set', 3, 0, 3 << 13)",
    ],
)
def test_limits_and_priorities_of_others_stay(pair: Pair, code: str) -> None:
    """A session tries to lower limits and priorities of another, and of all processes of its user: it is refused."""
    assert pair.attack(code) in REFUSED
    pair.intact()


def test_the_other_numbering_of_calls_is_refused(pair: Pair) -> None:
    """A session tries a refused system call by its number of the x32 form: the filter refuses that form."""
    assert pair.attack("libc.syscall(ctypes.c_long(0x40000000 + 521), 0, 0, 0, 0), ctypes.get_errno()") == [
        -1,
        errno.ENOSYS,
    ]


def test_the_walls_stay_up(pair: Pair) -> None:
    """A session tries to gain rights back by a program, and to drop the filter: both stay in its children."""
    code = """
import subprocess
shown = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
status = dict(line.split(":", 1) for line in shown.splitlines() if ":" in line)
[status["NoNewPrivs"].strip(), status["Seccomp"].strip(), libc.prctl(38, 0, 0, 0, 0), libc.prctl(22, 0, 0, 0, 0)]
"""
    assert pair.attack(code) == ["1", "2", -1, -1]


def test_abstract_sockets_are_closed(pair: Pair) -> None:
    """A session tries to connect to an abstract socket of another, whose name it knows: the kernel refuses."""
    listen = """
import socket, secrets
name = secrets.token_hex(8)
listener = socket.socket(socket.AF_UNIX); listener.bind("\\0" + name); listener.listen()
inside = socket.socket(socket.AF_UNIX); inside.connect("\\0" + name)
name
"""
    name = pair.target.attack(listen, pair.other)
    code = f"attempt(socket.socket(socket.AF_UNIX).connect, chr(0) + '{name}')"
    assert pair.attack(code) == errno.EPERM


def test_a_library_runs_behind_the_walls(pair: Pair) -> None:
    """A session tries to have the next session load its library before any wall stands: nothing of it can be read."""
    with pair.target.session() as first:
        path = pair.target.attack("open('evil.so', 'w').write('x')\nimport os; os.path.abspath('evil.so')", first)
        with pair.target.session(env={"LD_PRELOAD": path}) as second:
            status = "open('/proc/self/status').read().split('Seccomp:')[1].split()[0]"
            assert pair.target.attack(status, second) == "2"
            code = f"try: open({path!r})\nexcept OSError as error: number = error.errno\nnumber"
            assert pair.target.attack(code, second) in {errno.EACCES, errno.ENOENT}
