"""The walls around a session: what the filter answers on each architecture, and Landlock in each of its versions."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from venvd_worker.common import landlock, seccomp
from venvd_worker.common.walls import _list_around, _list_linked

ALLOW, KILL = 0x7FFF0000, 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
AF_UNIX, AF_INET, AF_NETLINK, AF_VSOCK = 1, 2, 16, 40


def answer(
    machine: str,
    number: int,
    *arguments: int,
    audit: int | None = None,
    network: bool = True,
    guard_first: bool = False,
) -> int:
    """What the filter makes of a system call, as the kernel runs it."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=iIQ6Q", number, ARCHITECTURES[machine] if audit is None else audit, 0, *values)
    program = seccomp.make_filter(network=network, guard_first=guard_first, machine=machine)
    code = [struct.unpack_from("=HBBI", program, offset) for offset in range(0, len(program), 8)]
    at = loaded = 0
    while True:
        kind, if_true, if_false, value = code[at]
        at += 1
        if kind == 0x20:
            (loaded,) = struct.unpack_from("=I", data, value)
        elif kind == 0x06:
            return value
        else:
            holds = loaded == value if kind == 0x15 else loaded >= value
            assert kind in (0x15, 0x35)
            at += if_true if holds else if_false


def refusal(number: int) -> int:
    return 0x00050000 | number


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    """Each architecture that has a filter."""
    return str(request.param)


def number_of(machine: str, name: str) -> int:
    return seccomp._ARCHITECTURES[machine].calls[name]


def test_ordinary_calls_pass(machine: str) -> None:
    """Calls that the filter does not know pass."""
    known = set(seccomp._ARCHITECTURES[machine].calls.values())
    assert {answer(machine, number) for number in range(450) if number not in known} == {ALLOW}


def test_calls_are_refused(machine: str) -> None:
    """Each call of the lists is answered with its error."""
    for names, error in ((seccomp._FORBIDDEN, errno.EPERM), (seccomp._ABSENT, errno.ENOSYS)):
        for name in names:
            if machine == "x86_64" or name != "inotify_init":
                assert answer(machine, number_of(machine, name)) == refusal(error), name


@pytest.mark.parametrize("name", ["kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open"])
def test_the_first_process_gets_no_signal(machine: str, name: str) -> None:
    """Where the kernel does not keep signals from the process 1, the filter does; all others get them."""
    for target, refused in ((1, True), (-1, True), (2, False), (0, False), (-2, False)):
        verdict = answer(machine, number_of(machine, name), target & (2**64 - 1), 9, guard_first=True)
        assert verdict == (refusal(errno.EPERM) if refused else ALLOW), target
        assert answer(machine, number_of(machine, name), target & (2**64 - 1), 9) == ALLOW


def test_no_descriptor_sends_signals_for_a_session(machine: str) -> None:
    """There, no process becomes the one that gets the signals of a descriptor; other uses of it pass."""
    for name, refused, passes in (("fcntl", (8, 15), (1, 2, 3, 4, 9)), ("ioctl", (0x8901, 0x8902), (0x5401, 0x541B))):
        number = number_of(machine, name)
        assert {answer(machine, number, 5, request, guard_first=True) for request in refused} == {refusal(errno.EPERM)}
        assert {answer(machine, number, 5, request, guard_first=True) for request in passes} == {ALLOW}


def test_other_architectures_are_killed(machine: str) -> None:
    """A call of a 32-bit program is killed, and the x32 form of a call is unknown."""
    assert answer(machine, 1, audit=0x40000003) == KILL
    assert answer(machine, 0x40000000 + 1) == refusal(errno.ENOSYS)


@pytest.mark.parametrize("name", ["socket", "socketpair"])
@pytest.mark.parametrize(
    ("family", "network", "passes"),
    [
        (AF_UNIX, True, True),
        (AF_UNIX, False, True),
        (AF_INET, True, True),
        (AF_INET, False, False),
        (AF_NETLINK, False, False),
        (AF_VSOCK, True, False),
        (AF_VSOCK | 1 << 32, True, False),
        (AF_INET | 1 << 32, False, False),
    ],
)
def test_families_of_sockets(machine: str, name: str, family: int, network: bool, passes: bool) -> None:
    """Sockets of the known families pass, of the network where it is on; the upper half of the number is void."""
    expected = ALLOW if passes else refusal(errno.EAFNOSUPPORT)
    assert answer(machine, number_of(machine, name), family, network=network) == expected


@pytest.mark.parametrize(
    ("name", "arguments", "passes"),
    [
        ("prlimit64", (0, 7, 0x7FFF00000000, 0), True),
        ("prlimit64", (5, 7, 0, 0x7FFF00000000), True),
        ("prlimit64", (5, 7, 0x7FFF00000000, 0), False),
        ("prlimit64", (5, 7, 0x1000, 0), False),
        ("setpriority", (0, 0, 5), True),
        ("setpriority", (0, 5, 5), False),
        ("setpriority", (2, 0, 5), False),
        ("ioprio_set", (1, 0, 0), True),
        ("ioprio_set", (3, 0, 0), False),
        ("sched_setscheduler", (0, 3, 0), True),
        ("sched_setscheduler", (5, 3, 0), False),
    ],
)
def test_a_process_changes_itself_alone(machine: str, name: str, arguments: tuple[int, ...], passes: bool) -> None:
    """Limits and priorities can be set of the caller itself, and limits read of all."""
    assert answer(machine, number_of(machine, name), *arguments) == (ALLOW if passes else refusal(errno.EPERM))


RESTRICTED = """
import os, sys
from venvd_worker.common import kernel, landlock
own, other, version = sys.argv[1], sys.argv[2], int(sys.argv[3])
kernel.forbid_new_privileges()
rules = {own: landlock.OWN, "/dev/null": landlock.USE, "/dev/absent": landlock.USE}
landlock.restrict(landlock.prepare(rules, version), version)
open(own + "/new", "w").write("x")
os.mkdir(own + "/directory")
open("/dev/null", "w").write("x")
refused = []
for action in (lambda: open(other + "/file"), lambda: os.listdir(other), lambda: os.mkdir(other + "/x"),
               lambda: os.kill(os.getppid(), 0)):
    try: action()
    except OSError as error: refused.append(error.errno)
print(refused)
"""


@pytest.mark.parametrize("version", range(1, 8))
def test_each_version_of_landlock(tmp_path: Path, version: int) -> None:
    """With the rules of each version files outside are closed; from version 6 signals stay inside."""
    if landlock.find_version() < version:
        pytest.skip("the kernel's Landlock is older")
    own, other = tmp_path / "own", tmp_path / "other"
    for directory in (own, other):
        directory.mkdir()
    (other / "file").touch()
    command = [sys.executable, "-c", RESTRICTED, str(own), str(other), str(version)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    signals = [errno.EPERM] if version >= landlock.SIGNALS_SINCE else []
    assert (done.stdout, done.stderr) == (f"{[errno.EACCES] * 3 + signals}\n", "")


def test_the_system_without_what_is_hidden(tmp_path: Path) -> None:
    """What surrounds a hidden directory is listed, without links and without the directories above it."""
    for name in ("a/b/hidden", "a/b/shown", "c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "b" / "hidden")
    shown = {os.path.relpath(path, tmp_path) for path in _list_around(str(tmp_path), [str(tmp_path / "a/b/hidden")])}
    assert shown == {"a/b/shown", "c"}


def test_sources_of_editable_packages_are_readable(tmp_path: Path) -> None:
    """Directories that `.pth` files and `direct_url.json` name are found, and nothing of these files is run."""
    (tmp_path / "linked.pth").write_text("/srv/source\nimport os; os._exit(1)\nrelative\n")
    for name, text in {
        "good": '{"url": "file:///srv/good%20one", "dir_info": {"editable": true}}',
        "wheel": '{"url": "file:///srv/wheel", "dir_info": {}}',
        "odd": '["file:///srv/odd"]',
        "broken": "{",
    }.items():
        (tmp_path / f"{name}-1.dist-info").mkdir()
        (tmp_path / f"{name}-1.dist-info" / "direct_url.json").write_text(text)
    assert sorted(_list_linked(str(tmp_path))) == ["/srv/good one", "/srv/source"]
