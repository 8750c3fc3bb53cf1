"""The filter of system calls that this process and all that it starts run under: BPF, without a library.

The filter refuses calls that reach into another process of the same user, and calls that make something in the kernel
which outlives its process. It knows x86-64 and AArch64. It kills a process of another architecture, such as a 32-bit
one.

A refused call fails as it does on a kernel that lacks it, so that libraries use something else: with `ENOSYS`, or with
`EAFNOSUPPORT` for a family of sockets. A call that is a question of rights fails with `EPERM`.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Dict, List, NamedTuple, Optional, Sequence

from venvd_worker.common import kernel

_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_INSTRUCTION = struct.Struct("=HBBI")
_X32 = 0x40000000
"""The bit in the number of a system call of the x32 form, which gives the same calls other numbers."""

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_LOCAL_FAMILIES = (_AF_UNIX,)
_NETWORK_FAMILIES = (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK)


class _Architecture(NamedTuple):
    audit: int
    calls: Dict[str, int]


_X86_64 = {
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_getfd": 438,
    "add_key": 248, "request_key": 249, "keyctl": 250, "userfaultfd": 323, "perf_event_open": 298, "bpf": 321,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "shmget": 29, "shmat": 30, "shmctl": 31, "shmdt": 67, "semget": 64, "semop": 65, "semctl": 66, "semtimedop": 220,
    "msgget": 68, "msgsnd": 69, "msgrcv": 70, "msgctl": 71,
    "mq_open": 240, "mq_unlink": 241, "mq_timedsend": 242, "mq_timedreceive": 243, "mq_notify": 244,
    "mq_getsetattr": 245, "inotify_init": 253, "inotify_init1": 294, "fanotify_init": 300,
    "socket": 41, "socketpair": 53, "prlimit64": 302, "setpriority": 141, "ioprio_set": 251,
    "sched_setparam": 142, "sched_setscheduler": 144, "sched_setattr": 314,
    "kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "pidfd_open": 434,
    "fcntl": 72, "ioctl": 16,
}  # fmt: skip
_AARCH64 = {
    "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "pidfd_getfd": 438,
    "add_key": 217, "request_key": 218, "keyctl": 219, "userfaultfd": 282, "perf_event_open": 241, "bpf": 280,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "shmget": 194, "shmat": 196, "shmctl": 195, "shmdt": 197, "semget": 190, "semop": 193, "semctl": 191,
    "semtimedop": 192, "msgget": 186, "msgsnd": 189, "msgrcv": 188, "msgctl": 187,
    "mq_open": 180, "mq_unlink": 181, "mq_timedsend": 182, "mq_timedreceive": 183, "mq_notify": 184,
    "mq_getsetattr": 185, "inotify_init1": 26, "fanotify_init": 262,
    "socket": 198, "socketpair": 199, "prlimit64": 261, "setpriority": 140, "ioprio_set": 30,
    "sched_setparam": 118, "sched_setscheduler": 119, "sched_setattr": 274,
    "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "pidfd_open": 434,
    "fcntl": 25, "ioctl": 29,
}  # fmt: skip
_ARCHITECTURES = {"x86_64": _Architecture(0xC000003E, _X86_64), "aarch64": _Architecture(0xC00000B7, _AARCH64)}

_FORBIDDEN = (
    "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "add_key", "request_key", "keyctl",
    "userfaultfd", "perf_event_open", "bpf",
)  # fmt: skip
_ABSENT = (
    "io_uring_setup", "io_uring_enter", "io_uring_register", "shmget", "shmat", "shmctl", "shmdt", "semget", "semop",
    "semctl", "semtimedop", "msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink", "mq_timedsend",
    "mq_timedreceive", "mq_notify", "mq_getsetattr", "inotify_init", "inotify_init1", "fanotify_init",
)  # fmt: skip
"""inotify would name the files that other sessions make in a directory that this one cannot list."""
_FIRST_IS_OWN = ("sched_setparam", "sched_setscheduler", "sched_setattr")
"""Calls whose first argument is a process ID, where 0 means the caller."""
_REACH_FIRST_PROCESS = {
    **dict.fromkeys(
        ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open"), (0, (1, 2**32 - 1))
    ),
    "fcntl": (1, (8, 15)),
    "ioctl": (1, (0x8901, 0x8902)),
}
"""Calls that can send a signal to the process 1 or to all processes: which argument, and the values to refuse.

Those of `fcntl` (F_SETOWN, F_SETOWN_EX) and `ioctl` (FIOSETOWN, SIOCSPGRP) choose who gets the signals of a descriptor.
"""


def is_known(machine: str = "") -> bool:
    """Return whether there is a filter for this machine's architecture."""
    return (machine or os.uname().machine) in _ARCHITECTURES


def make_filter(*, network: bool, guard_first: bool = False, machine: str = "") -> bytes:
    """Make the filter as instructions of the kernel.

    Args:
        network: whether the filter allows sockets of AF_INET, AF_INET6 and AF_NETLINK.
        guard_first: whether to refuse signals to the process 1. Linux itself keeps them away from it.
        machine: the architecture as `uname` names it; by default this machine's.
    """
    architecture = _ARCHITECTURES[machine or os.uname().machine]
    calls = architecture.calls
    code = [
        _load(_ARCHITECTURE_AT), *_when(architecture.audit, [], otherwise=_KILL),
        _load(_NUMBER_AT), _jump(_AT_LEAST, _X32, 0, 1), _return(_ERROR | errno.ENOSYS),
    ]  # fmt: skip
    for names, number in ((_FORBIDDEN, errno.EPERM), (_ABSENT, errno.ENOSYS)):
        for name in names:
            if name in calls:
                code += _when(calls[name], [_return(_ERROR | number)])
    families = _NETWORK_FAMILIES if network else _LOCAL_FAMILIES
    for name in ("socket", "socketpair"):
        code += _when(calls[name], _accept_one(0, families, errno.EAFNOSUPPORT))
    for name in _FIRST_IS_OWN:
        code += _when(calls[name], _accept_one(0, [0], errno.EPERM))
    for name, (index, refused) in _REACH_FIRST_PROCESS.items() if guard_first else ():
        code += _when(calls[name], _refuse(index, refused, errno.EPERM))
    code += _when(calls["setpriority"], _accept_both((0, 0), (1, 0)))
    code += _when(calls["ioprio_set"], _accept_both((0, 1), (1, 0)))
    code += _when(calls["prlimit64"], _accept_limits())
    return b"".join([*code, _return(_ALLOW)])


def install(program: bytes) -> None:
    """Put this thread and all that it starts under a filter for ever. Call `kernel.forbid_new_privileges` first.

    Raises:
        OSError: the kernel does not take the filter.
    """
    kernel.set_filter(program, len(program) // _INSTRUCTION.size)


# ---- instructions


def _load(offset: int) -> bytes:
    return _INSTRUCTION.pack(_LOAD, 0, 0, offset)


def _jump(kind: int, value: int, if_true: int, if_false: int) -> bytes:
    return _INSTRUCTION.pack(kind, if_true, if_false, value)


def _return(action: int) -> bytes:
    return _INSTRUCTION.pack(_RETURN, 0, 0, action)


def _when(value: int, body: Sequence[bytes], otherwise: Optional[int] = None) -> List[bytes]:
    """Run `body` if the loaded value is `value`. Else go on, or return `otherwise`."""
    if otherwise is not None:
        return [_jump(_EQUAL, value, 1, 0), _return(otherwise), *body]
    return [_jump(_EQUAL, value, 0, len(body)), *body]


def _argument(index: int, *, upper: bool = False) -> bytes:
    return _load(_ARGUMENTS_AT + 8 * index + (4 if upper else 0))


def _accept_one(index: int, values: Sequence[int], number: int) -> List[bytes]:
    """Allow the call if the lower 32 bits of an argument are one of `values`."""
    tests = [_jump(_EQUAL, value, len(values) - position, 0) for position, value in enumerate(values)]
    return [_argument(index), *tests, _return(_ERROR | number), _return(_ALLOW)]


def _refuse(index: int, values: Sequence[int], number: int) -> List[bytes]:
    """Allow the call unless the lower 32 bits of an argument are one of `values`."""
    tests = [_jump(_EQUAL, value, len(values) - position, 0) for position, value in enumerate(values)]
    return [_argument(index), *tests, _return(_ALLOW), _return(_ERROR | number)]


def _accept_both(*pairs: Sequence[int]) -> List[bytes]:
    """Allow the call if each argument has the given value. Each pair is the index and the value of an argument."""
    code: List[bytes] = []
    for index, value in pairs:
        code += [_argument(index), *_when(value, [], otherwise=_ERROR | errno.EPERM)]
    return [*code, _return(_ALLOW)]


def _accept_limits() -> List[bytes]:
    """Allow `prlimit64` for the caller itself. Allow it to read the limits of any process."""
    return [
        _argument(0), _jump(_EQUAL, 0, 4, 0),
        _argument(2), _jump(_EQUAL, 0, 0, 3),
        _argument(2, upper=True), _jump(_EQUAL, 0, 0, 1),
        _return(_ALLOW), _return(_ERROR | errno.EPERM),
    ]  # fmt: skip
