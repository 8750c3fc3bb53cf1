"""What Linux offers and the standard library does not: bound once, before any code of the user's could run."""

from __future__ import annotations

import ctypes
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
