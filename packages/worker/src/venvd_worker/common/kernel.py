"""Functions of Linux that the standard library lacks, bound before any user code runs."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Iterable, NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_signalfd = _libc.signalfd
_signalfd.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
_fflush = _libc.fflush
_fflush.argtypes = [ctypes.c_void_p]

_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_munmap = _libc.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

_PROT_READ, _PROT_WRITE = 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_POPULATE = 1, 2, 0x8000
_MAP_FAILED = ctypes.c_void_p(-1).value
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_SIGNALFD_INFO = struct.Struct("<IiiI")
_SIGNALFD_SIZE = 128
_SIGSET_BYTES = 128


def _control_process(option: int, value: int) -> None:
    if _prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


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
    """Take `hide_memory` back."""
    _control_process(_PR_SET_DUMPABLE, 1)


def name_process(name: str) -> None:
    """What `ps` and `top` call this process, in 15 bytes."""
    text = ctypes.create_string_buffer(name.encode())
    _control_process(_PR_SET_NAME, ctypes.addressof(text))


def set_oom_score(score: int) -> None:
    """Have the kernel end this process before those with a lower score where memory runs out; at most 1000."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(score))
    except OSError:
        pass  # it is higher already


def map_file(descriptor: int, size: int, private: bool) -> int:
    """Where `size` bytes of a file are mapped, readable and writable; `mmap` would keep a copy of the descriptor.

    What is written to a `private` mapping is seen there alone; of any other every page is mapped at once.
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
    """Write out what C code has printed and its library still holds."""
    _fflush(None)


class Signal(NamedTuple):
    """A signal that came; `sender` is 0 where it came from outside this PID namespace."""

    number: int
    sender: int


def signal_descriptor(signals: Iterable[int]) -> int:
    """A descriptor from which `signals`, which must be blocked, are read."""
    mask = (ctypes.c_ubyte * _SIGSET_BYTES)()
    for number in signals:
        mask[(number - 1) // 8] |= 1 << ((number - 1) % 8)
    descriptor = int(_signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return descriptor


def read_signals(descriptor: int) -> Iterable[Signal]:
    """The signals that came since the last time."""
    while True:
        try:
            info = os.read(descriptor, _SIGNALFD_SIZE)
        except BlockingIOError:
            return
        number, _, _, sender = _SIGNALFD_INFO.unpack_from(info)
        yield Signal(number, sender)
