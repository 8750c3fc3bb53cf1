"""The SDK's clients, as a user writes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

import venvd
from benchmarks import machine
from benchmarks.clients.timing import median_of, shared_out
from benchmarks.figure import Address, Probe, UnmeasurableError

CALLS = 200
"""With which it is found out whether calls go through the server."""


def wanted(found: object) -> None:
    if found != 2:
        raise UnmeasurableError(f"1+1 came to {found!r}")


@contextmanager
def evals(at: Address) -> Iterator[Probe]:
    """`eval("1+1")`, sync."""
    with venvd.connect(at.url, at.token) as backend:
        wanted(backend.eval("1+1"))
        yield median_of(lambda: backend.eval("1+1"))


@contextmanager
def evals_attached(at: Address) -> Iterator[Probe]:
    """The same; the SDK attaches by itself where the backend offers it, and then the server has nothing to do."""
    with venvd.connect(at.url, at.token) as backend:
        for _ in range(10):
            wanted(backend.eval("1+1"))
        before = machine.switches(at.server)
        for _ in range(CALLS):
            backend.eval("1+1")
        if machine.switches(at.server) - before > CALLS / 2:
            raise UnmeasurableError("the SDK did not attach to the session: its calls went through the server")
        yield median_of(lambda: backend.eval("1+1"))


@contextmanager
def evals_async(at: Address, tasks: int) -> Iterator[Probe]:
    """`eval("1+1")` from so many tasks on uvloop."""
    loop = uvloop.new_event_loop()
    backend = venvd.connect_async(at.url, at.token)
    wanted(loop.run_until_complete(backend.eval("1+1")))
    yield lambda batch: loop.run_until_complete(shared_out(lambda: backend.eval("1+1"), batch, tasks))
    loop.run_until_complete(backend.close())
