"""The socket at which the warden is found."""

from __future__ import annotations

import os
import socket


def listen(path: str) -> socket.socket:
    """A listener at `path` for this user and the group of the directory; what another warden left there is replaced."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o117)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(16)
    listener.setblocking(False)
    return listener
