"""Clients of the SDK, as a user writes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

import venvd
from benchmarks import machine
from benchmarks.clients.timing import mean_of_tasks, median_of
from benchmarks.figure import Address, Probe, UnmeasurableError

CALLS = 200
"""Number of calls that show whether calls go through the server."""


def check_answer(answer: object) -> None:
    if answer != 2:
        raise UnmeasurableError(f"the answer to 1+1 was {answer!r}")


@contextmanager
def evals(at: Address) -> Iterator[Probe]:
    """`eval("1+1")`, sync."""
    with venvd.connect(at.url, at.token) as backend:
        check_answer(backend.eval("1+1"))
        yield median_of(lambda: backend.eval("1+1"))


@contextmanager
def method_calls(at: Address) -> Iterator[Probe]:
    """`proxy.count(1)` of a list, sync."""
    with venvd.connect(at.url, at.token) as backend:
        numbers = backend.wrap([1, 1])
        check_answer(numbers.count(1))
        yield median_of(lambda: numbers.count(1))


@contextmanager
def evals_attached(at: Address) -> Iterator[Probe]:
    """`eval("1+1")` after the SDK has attached to the session; the server then takes no part in calls."""
    with venvd.connect(at.url, at.token) as backend:
        _attach(at, backend)
        yield median_of(lambda: backend.eval("1+1"))


@contextmanager
def method_calls_attached(at: Address) -> Iterator[Probe]:
    """`proxy.count(1)` of a list after the SDK has attached to the session."""
    with venvd.connect(at.url, at.token) as backend:
        _attach(at, backend)
        numbers = backend.wrap([1, 1])
        check_answer(numbers.count(1))
        yield median_of(lambda: numbers.count(1))


def _attach(at: Address, backend: venvd.Backend) -> None:
    for _ in range(10):
        check_answer(backend.eval("1+1"))
    before = machine.switches(at.server)
    for _ in range(CALLS):
        backend.eval("1+1")
    if machine.switches(at.server) - before > CALLS / 2:
        raise UnmeasurableError("the SDK did not attach to the session: its calls went through the server")


@contextmanager
def evals_async(at: Address, tasks: int) -> Iterator[Probe]:
    """`eval("1+1")` from a number of concurrent tasks on uvloop."""
    loop = uvloop.new_event_loop()
    backend = venvd.connect_async(at.url, at.token)
    check_answer(loop.run_until_complete(backend.eval("1+1")))
    yield lambda batch: loop.run_until_complete(mean_of_tasks(lambda: backend.eval("1+1"), batch, tasks))
    loop.run_until_complete(backend.close())
