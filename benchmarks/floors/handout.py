"""Hands out forks that were made before and have imported numpy and pandas.

A client connects, receives one end of a socket pair as a descriptor, and exchanges bytes with the fork at the other
end. The fork ends when the client closes its end.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
from pathlib import Path

PATH = f"{Path.cwd()}/handout-{os.getpid()}.sock"
AHEAD = 4
"""Forks that wait."""
MODULES = ("numpy", "pandas")


def start_fork() -> socket.socket:
    """Fork a process that answers what it receives, and return the other end of its connection."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        with contextlib.suppress(OSError):
            while data := theirs.recv(65536):
                theirs.sendall(data)
        os._exit(0)
    theirs.close()
    return ours


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the forks
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(PATH)
    listener.listen()
    print(f"unix://{PATH}", flush=True)
    ready = [start_fork() for _ in range(AHEAD)]
    while True:
        client, _ = listener.accept()
        with client, ready.pop(0) as fork:
            socket.send_fds(client, [b"x"], [fork.fileno()])
        ready.append(start_fork())


if __name__ == "__main__":
    main()
