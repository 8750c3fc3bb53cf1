"""Two pipes that carry the lines of a direct connection. A message takes half the kernel time of one over a socket."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from functools import partial


class Pipes:
    """The client's ends of two pipes. It has those methods of a socket that a direct connection calls.

    Attributes:
        recv: like `socket.recv`.
        look: returns whether there is something to receive, without waiting.
        send: like `socket.send`, but raises BlockingIOError instead of waiting.
    """

    __slots__ = ("_read", "_replies", "_requests", "_timeout", "look", "recv", "send")

    def __init__(self, requests: int, replies: int) -> None:
        os.set_blocking(requests, False)
        self._requests, self._replies = requests, replies
        self.send: Callable[[bytes | memoryview], int] = partial(os.write, requests)
        self._read: Callable[[int], bytes] = partial(os.read, replies)
        poll = select.poll()
        poll.register(replies, select.POLLIN)
        self.look: Callable[[], list[tuple[int, int]]] = partial(poll.poll, 0)
        self.settimeout(None)

    def settimeout(self, timeout: float | None) -> None:
        self._timeout = timeout
        self.recv = self._read if timeout is None else self._read_with_timeout

    def fileno(self) -> int:
        """Return the descriptor on which replies come."""
        return self._replies

    def send_some(self, data: bytes | memoryview) -> int:
        """Send as much of `data` as fits, and return the number of bytes. Wait first if the pipe is full."""
        while True:
            try:
                return self.send(data)
            except BlockingIOError:
                self._wait_for(self._requests, select.POLLOUT)

    def close(self) -> None:
        requests, replies, self._requests, self._replies = self._requests, self._replies, -1, -1
        if requests >= 0:
            os.close(requests)
            os.close(replies)

    def __del__(self) -> None:
        self.close()  # as with sockets, an object that the program did not close leaves no descriptor open

    def _read_with_timeout(self, size: int) -> bytes:
        self._wait_for(self._replies, select.POLLIN)
        return self._read(size)

    def _wait_for(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(None if self._timeout is None else self._timeout * 1000):
            raise TimeoutError("timed out")


def make_pipes() -> tuple[Pipes, tuple[int, int]]:
    """Make two pipes. Return the client's ends, and the two from which the session reads and to which it writes.

    Raises:
        OSError: this process has too many open files.
    """
    read_requests, write_requests = os.pipe()
    try:
        read_replies, write_replies = os.pipe()
    except OSError:
        os.close(read_requests)
        os.close(write_requests)
        raise
    return Pipes(write_requests, read_replies), (read_requests, write_replies)
