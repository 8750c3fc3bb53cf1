"""`python fork_server.py MODULE:FUNCTION`: runs a program in forks of one process that has imported it.

An import of the controller or of the command line takes most of the time of a short run.

stdin is a Unix socket of packets. Each packet is a request: JSON with the words, the environment, the working
directory, and whether the program leads a session of its own. Its descriptors are a channel and the standard streams.
The channel answers with the process ID, and later with the exit code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, TextIO

LARGEST_REQUEST = 1 << 20
DESCRIPTORS = 4


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Make this fork the process that a request describes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["leads"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.argv[1:] = request["words"]
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (reopen(stream) for stream in (sys.stdin, sys.stdout, sys.stderr))


def reopen(stream: TextIO) -> TextIO:
    """Open the descriptor of a standard stream, without what the stream has read ahead."""
    mode = "r" if stream.readable() else "w"
    return open(stream.fileno(), mode, encoding=stream.encoding, errors=stream.errors, closefd=False)


def serve() -> bool:
    """Answer requests until the client is gone. Return true in a fork, which is to run the program."""
    door = socket.socket(fileno=os.dup(0))
    running: dict[int, tuple[int, socket.socket]] = {}
    poller = selectors.DefaultSelector()
    poller.register(door, selectors.EVENT_READ)
    while True:
        for ready, _ in poller.select():
            if ready.fileobj is not door:
                poller.unregister(ready.fd)
                pid, channel = running.pop(ready.fd)
                os.close(ready.fd)
                _, status = os.waitpid(pid, 0)
                send(channel, os.waitstatus_to_exitcode(status))
                channel.close()
                continue
            content, descriptors, _, _ = socket.recv_fds(door, LARGEST_REQUEST, DESCRIPTORS)
            if not content:
                return False
            pid = os.fork()
            if pid == 0:
                poller.close()
                door.close()
                for watched, (_, channel) in running.items():
                    os.close(watched)
                    channel.close()
                os.close(descriptors[0])
                become(json.loads(content), descriptors[1:])
                return True
            channel = socket.socket(fileno=descriptors[0])
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            watched = os.pidfd_open(pid)
            running[watched] = pid, channel
            poller.register(watched, selectors.EVENT_READ)
            send(channel, pid)


def send(channel: socket.socket, number: int) -> None:
    """Send a number on a line; the client may be gone."""
    with contextlib.suppress(OSError):
        channel.sendall(f"{number}\n".encode())


def find_program() -> Callable[[], Any]:
    module, _, function = sys.argv[1].partition(":")
    program: Callable[[], Any] = getattr(importlib.import_module(module), function)
    sys.argv[1:] = []
    return program


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, which end what they started
    run = find_program()
    gc.freeze()
    if serve():
        sys.exit(run())
