"""A program for two containers that test an OCI runtime: they do what a server and its worker host do.

`listen DIRECTORY` is the server. It waits for a connection on a socket in the directory, and sends a memfd and one end
of a socket pair. `connect DIRECTORY` is the worker host. It maps the memory, writes to it, also in a fork, and answers
through the pair. If something does not work, each prints what and ends with status 1. Runs on CPython 3.9 and newer.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
import time
from collections.abc import Callable

SECONDS = 20.0
WORD, FORKED = b"runtime", b"forked!"


def listen(directory: str) -> None:
    memory = os.memfd_create("probe")
    os.ftruncate(memory, mmap.PAGESIZE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        os.umask(0)  # the other half is another user
        listener.bind(f"{directory}/probe.sock")
        listener.listen()
        listener.settimeout(SECONDS)
        connection, _ = listener.accept()
    mine, given = socket.socketpair()
    socket.send_fds(connection, [b"hello"], [memory, given.fileno()])
    given.close()
    mine.settimeout(SECONDS)
    step("an answer through a passed socket", lambda: mine.recv(16) == b"written")
    step("shared memory", lambda: os.pread(memory, len(WORD), 0) == WORD)
    step("shared memory of a fork", lambda: os.pread(memory, len(FORKED), 64) == FORKED)


def connect(directory: str) -> None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    step("a connection to the server's socket", lambda: reach(connection, f"{directory}/probe.sock"))
    connection.settimeout(SECONDS)
    received = socket.recv_fds(connection, 16, 2)[1]
    step("descriptors that come in", lambda: len(received) == 2)
    memory = mmap.mmap(received[0], mmap.PAGESIZE)
    memory[: len(WORD)] = WORD
    child = os.fork()
    if child == 0:
        memory[64 : 64 + len(FORKED)] = FORKED
        os._exit(0)
    step("a fork", lambda: os.waitpid(child, 0)[1] == 0)
    socket.socket(fileno=received[1]).sendall(b"written")


def reach(connection: socket.socket, path: str) -> bool:
    """Connect as soon as the server listens."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return True


def step(name: str, works: Callable[[], bool]) -> None:
    """End the program unless a step works."""
    try:
        reason = "" if works() else "it does nothing"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        sys.exit(f"{name}: {reason}")


if __name__ == "__main__":
    {"listen": listen, "connect": connect}[sys.argv[1]](sys.argv[2])
