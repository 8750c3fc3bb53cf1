"""Functions of Linux that the standard library lacks, bound before any user code runs."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Iterable, NamedTuple, Optional

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_name_process = ctypes.CDLL(None, use_errno=True).prctl  # a second `prctl`, for other types of arguments
_name_process.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_capset = _libc.capset
_signalfd = _libc.signalfd
_signalfd.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
_fflush = _libc.fflush
_fflush.argtypes = [ctypes.c_void_p]

_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_munmap = _libc.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

_unshare = _libc.unshare
_unshare.argtypes = [ctypes.c_int]
_mount = _libc.mount
_mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]

_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_add_rule = ctypes.CDLL(
    None, use_errno=True
).syscall  # a second `syscall`, with fixed types, because there is a call for each rule
_add_rule.restype = ctypes.c_long
_add_rule.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong]

IN_GVISOR = os.path.exists("/proc/sentry-meminfo")
"""Whether the kernel is gVisor's. The code that uses this name says how gVisor differs from Linux there."""

SESSION_OOM_SCORE, ZYGOTE_OOM_SCORE = 900, 500
"""Scores, at most 1000. If memory runs out, the kernel kills sessions first, then the zygote, then the warden."""

_PROT_READ, _PROT_WRITE = 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_POPULATE = 1, 2, 0x8000
_MAP_FAILED = ctypes.c_void_p(-1).value
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_SIGNALFD_INFO = struct.Struct("=IiiI")
_SIGNALFD_SIZE = 128
_SIGSET_BYTES = 128
_SI_USER = 0
_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWPID = 0x20000, 0x8000000, 0x10000000, 0x20000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 32, 4096
_CAPABILITY_VERSION, _CAPABILITY_BYTES, _MOST_CAPABILITIES = 0x20080522, 24, 64

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1 << 2
"""Without it, kernels before 5.16 turn off speculation of the processor, which nothing here needs."""
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1


def _control_process(option: int, value: int) -> None:
    _check(_prctl(option, value, 0, 0, 0))


def die_with_parent(signal: int) -> None:
    """Have the kernel send `signal` to this process when the thread that made it ends."""
    _control_process(_PR_SET_PDEATHSIG, signal)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _control_process(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """Keep other processes of this user from reading this one's memory and taking its descriptors."""
    _control_process(_PR_SET_DUMPABLE, 0)


def show_memory() -> None:
    """Undo `hide_memory`."""
    _control_process(_PR_SET_DUMPABLE, 1)


def name_process(name: str) -> None:
    """Set the name of this process in `ps` and `top`, at most 15 bytes."""
    _check(_name_process(_PR_SET_NAME, name.encode(), 0, 0, 0))


def set_oom_score(score: int) -> None:
    """Have the kernel kill this process before those with a lower score if memory runs out. The most is 1000."""
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)  # the walls forbid to truncate it
        try:
            os.write(descriptor, str(score).encode())
        finally:
            os.close(descriptor)
    except OSError:
        pass  # the score is higher already


def map_file(descriptor: int, size: int, private: bool) -> int:
    """Map `size` bytes of a file to read and write, and return the address.

    `mmap` of the standard library would keep a copy of the descriptor. Only this process sees what it writes to a
    `private` mapping. For any other mapping, the kernel maps every page at once.
    """
    flags = _MAP_PRIVATE if private else _MAP_SHARED | _MAP_POPULATE
    address = _mmap(None, size, _PROT_READ | _PROT_WRITE, flags, descriptor, 0)
    if address in (None, _MAP_FAILED):
        error = ctypes.get_errno()
        if error == errno.ENOMEM:
            raise MemoryError
        raise OSError(error, os.strerror(error))
    return int(address)


def unmap(address: int, size: int) -> None:
    _munmap(address, size)


def flush_stdio() -> None:
    """Write out what C code has printed and the C library still buffers."""
    _fflush(None)


def _call(number: int, *arguments: object) -> int:
    """Make a system call for which the C library has no function."""
    result = int(_syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def forbid_new_privileges() -> None:
    """Let no program gain rights that this process or its children run, as set-user-ID programs do."""
    _control_process(_PR_SET_NO_NEW_PRIVS, 1)


def limit_capabilities() -> None:
    """Keep this process and its children from ever getting a right of root.

    Raises:
        OSError: this process lacks the rights of root that this takes.
    """
    for number in range(_MOST_CAPABILITIES):
        if _prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            if ctypes.get_errno() == errno.EINVAL:  # the kernel knows no further ones
                return
            _check(-1)


def drop_capabilities() -> None:
    """Give up every right of root that goes beyond the rights of a file's owner. No program gets them back."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    _check(_capset(header, bytes(_CAPABILITY_BYTES)))


def make_namespaces() -> None:
    """Put this process into new user, mount and IPC namespaces, and its next children into a new PID namespace."""
    _check(_unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWIPC))


def mount(source: str, target: str, kind: str, options: str = "") -> None:
    """Mount a file system, without devices and without programs that change the user."""
    _check(_mount(source.encode(), target.encode(), kind.encode(), _MS_NOSUID | _MS_NODEV, options.encode() or None))


def bind(source: str, target: str) -> None:
    """Show a file or a directory at a second place as well."""
    _check(_mount(source.encode(), target.encode(), None, _MS_BIND, None))


def make_read_only(target: str) -> None:
    """Make a mount read-only."""
    flags = _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV
    _check(_mount(b"", target.encode(), None, flags, None))


def _check(result: int) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def set_filter(code: bytes, length: int) -> None:
    """Put a filter of `length` instructions on the system calls of this thread and of all that it starts."""
    program = ctypes.byref(_FilterProgram(length, code))
    call, mode = _SECCOMP[os.uname().machine], ctypes.c_ulong(_SECCOMP_SET_MODE_FILTER)
    try:
        _call(call, mode, ctypes.c_ulong(_SECCOMP_FILTER_FLAG_SPEC_ALLOW), program)
    except OSError:  # kernels before 4.17 and gVisor lack this flag
        _call(call, mode, ctypes.c_ulong(0), program)


def find_landlock() -> int:
    """Return the version of Landlock's interface, or 0 if the kernel has no Landlock."""
    try:
        return _call(
            _LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_ulong(_LANDLOCK_CREATE_RULESET_VERSION)
        )
    except OSError:
        return 0


def make_landlock_rules(attributes: bytes) -> int:
    """Make a descriptor for the rules of a Landlock domain."""
    return _call(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_ulong(0))


def add_landlock_rule(rules: int, rule: bytes) -> None:
    """Add a rule on what is beneath a path."""
    if _add_rule(_LANDLOCK_ADD_RULE, rules, _LANDLOCK_RULE_PATH_BENEATH, rule, 0) < 0:
        _check(-1)


def enforce_landlock_rules(rules: int) -> None:
    """Put this thread and all that it starts under these rules for ever."""
    _call(_LANDLOCK_RESTRICT_SELF, ctypes.c_long(rules), ctypes.c_ulong(0))


class Signal(NamedTuple):
    """A signal that this process received.

    Attributes:
        sender: ID of the process that sent it with `kill`, or 0 if that is outside of this PID namespace. None if
            the signal came in another way.
    """

    number: int
    sender: Optional[int]


def signal_descriptor(signals: Iterable[int]) -> int:
    """Make a descriptor from which to read `signals`. The caller must have blocked them."""
    mask = (ctypes.c_ubyte * _SIGSET_BYTES)()
    for number in signals:
        mask[(number - 1) // 8] |= 1 << ((number - 1) % 8)
    descriptor = int(_signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return descriptor


def read_signals(descriptor: int) -> Iterable[Signal]:
    """Yield the signals that came since the last read."""
    while True:
        try:
            info = os.read(descriptor, _SIGNALFD_SIZE)
        except BlockingIOError:
            return
        number, _, code, sender = _SIGNALFD_INFO.unpack_from(info)
        # A process can only choose negative codes. So with SI_USER the kernel has set the sender's ID.
        yield Signal(number, sender if code == _SI_USER else None)
