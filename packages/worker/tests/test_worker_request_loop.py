"""The order in which what epoll says is heeded."""

from __future__ import annotations

import os
import select
import socket
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from venvd_contract.internal.control import AttachTerms
from venvd_contract.spinning import Spinner
from venvd_worker.session.direct_stream import DirectStream
from venvd_worker.session.request_loop import RequestLoop
from venvd_worker.session.slot import Traffic
from venvd_worker.session.streams import Stream

TERMS = AttachTerms(1, "a", 0.0, 1 << 20, 1 << 20, True)
LEASE_SECONDS = 60.0
PIPES = b'{"id":1,"command":"session.pipes"}\n'


class Scripted:
    """Says what it was told to say, and then that the server is gone."""

    def __init__(self) -> None:
        self.says: list[list[tuple[int, int]]] = []

    def register(self, *_: Any) -> None: ...

    modify = unregister = register

    def poll(self, *_: Any) -> list[tuple[int, int]]:
        if not self.says:
            raise EOFError
        return self.says.pop(0)


def make_request_loop(epoll: Any, server: Stream, leases: Any = ()) -> RequestLoop:
    segments: Any = SimpleNamespace(idle=[], returned=[], expire=lambda: None)
    calls: Any = SimpleNamespace(leases=leases, answer=lambda *_: b"answered\n", expire=lambda: LEASE_SECONDS)
    slot: Any = None
    return RequestLoop(epoll, server, calls, slot, segments)


@pytest.mark.parametrize(("leases", "sleep"), [((), -1), (("handle",), LEASE_SECONDS)])
def test_a_wait_spins_once_enough_others_have_slept(leases: Any, sleep: float) -> None:
    """The request loop looks without waiting before it sleeps, after as many waits as the spinner lets go by.

    So it does where a handle has a lease, and the sleep a limit.
    """
    waits: list[int] = []

    class Epoll(Scripted):
        def poll(self, *arguments: Any) -> list[tuple[int, int]]:
            waits.append(arguments[0])
            return [] if arguments[0] == 0 else super().poll()

    epoll = Epoll()
    ours, control = socket.socketpair()
    server = Stream(ours.detach(), Traffic())
    request_loop = make_request_loop(epoll, server, leases)
    request_loop._spinner = Spinner(partial(epoll.poll, 0), 1)
    request_loop._spinner.skips = 2
    epoll.says += [[], []]
    with pytest.raises(EOFError):
        request_loop.serve()
    assert waits[:3] == [sleep, sleep, 0]
    assert waits[-1] == sleep
    server.close()
    control.close()


def test_a_number_that_is_used_again() -> None:
    """What was said of a client that went is not taken for news of one that came meanwhile and has its descriptor."""
    epoll = Scripted()
    (ours, control), (first, one), (second, other) = (socket.socketpair() for _ in range(3))
    server, left = Stream(ours.detach(), Traffic()), DirectStream(first.detach(), TERMS, b"", Traffic())
    request_loop = make_request_loop(epoll, server)
    request_loop.add(left)
    pipes = [*os.pipe(), *os.pipe()]
    socket.send_fds(one, [PIPES], [pipes[0], pipes[3]])
    epoll.says.append([(left.fileno(), select.EPOLLIN)])
    with pytest.raises(EOFError):
        request_loop.serve()
    assert left.piped
    number = left.source
    came = []

    def come() -> None:
        with second:
            came.append(DirectStream(os.dup2(second.fileno(), number), TERMS, b"", Traffic()))
        request_loop.add(came[0])

    request_loop.listen(control.fileno(), come)
    other.sendall(b'{"id":1}\n')
    news = [(left.fileno(), select.EPOLLHUP), (control.fileno(), select.EPOLLIN), (number, select.EPOLLHUP)]
    epoll.says += [news, [(number, select.EPOLLIN)]]
    with pytest.raises(EOFError):
        request_loop.serve()
    assert other.recv(100) == b"answered\n"
    for each in (server, *came, control, one, other):
        each.close()
    for descriptor in pipes:
        os.close(descriptor)
