"""New sessions, and what comes before them: a fork, a fresh interpreter."""

from __future__ import annotations

import gc
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import venvd
from benchmarks import machine
from benchmarks.clients.sdk import wanted
from benchmarks.clients.timing import MILLI
from benchmarks.figure import Address, Probe, UnmeasurableError

REST = 0.3
"""Seconds between two new sessions, in which the forks made ahead are made anew."""
PRELOADED = "all(name in __import__('sys').modules for name in {modules!r})"
TOGETHER = 4
"""Idle sessions that memory is measured with."""
SETTLED = 0.3
FRESH = "import {modules}; print(flush=True); input()"


@contextmanager
def fork(_at: Address, modules: list[str]) -> Iterator[Probe]:
    """`os.fork` of a process that has imported the modules, and one round trip over a pipe."""
    for name in modules:
        importlib.import_module(name)
    gc.freeze()
    yield lambda batch: statistics.median(_forked() for _ in range(batch)) * MILLI


def _forked() -> float:
    ask, asked = os.pipe()
    answered, answer = os.pipe()
    begun = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.write(answer, os.read(ask, 1))
        os._exit(0)
    os.write(asked, b"?")
    os.read(answered, 1)
    took = time.perf_counter() - begun
    os.waitpid(child, 0)
    for descriptor in (ask, asked, answered, answer):
        os.close(descriptor)
    return took


@contextmanager
def new(at: Address, modules: list[str], rest: float = REST) -> Iterator[Probe]:
    """A new session, to its first answer; it is deleted, and `rest` seconds pass, outside of what is measured."""
    with venvd.connect(at.url, at.token) as backend:
        with backend.sessions.create() as session:
            if not session.eval(PRELOADED.format(modules=modules)):
                raise UnmeasurableError(f"sessions are not preloaded with {' and '.join(modules)}")

        def once() -> float:
            time.sleep(rest)
            begun = time.perf_counter()
            session = backend.sessions.create()
            wanted(session.eval("1+1"))
            took = time.perf_counter() - begun
            session.delete()
            return took

        yield lambda batch: statistics.median(once() for _ in range(batch)) * MILLI


@contextmanager
def fresh_memory(_at: Address, modules: list[str]) -> Iterator[Probe]:
    """MB of a fresh interpreter that imports the modules."""

    def probe(_batch: int) -> float:
        command = [sys.executable, "-c", FRESH.format(modules=", ".join(modules))]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            found = machine.pss(process.pid)
            process.communicate(b"\n")
        return found

    yield probe


@contextmanager
def more_memory(at: Address, modules: list[str]) -> Iterator[Probe]:
    """MB that the worker host has more for one more idle session, which has answered once."""
    with venvd.connect(at.url, at.token) as backend:
        with backend.sessions.create() as session:
            if not session.eval(PRELOADED.format(modules=modules)):
                raise UnmeasurableError(f"sessions are not preloaded with {' and '.join(modules)}")

        def probe(_batch: int) -> float:
            before = _settled(at.worker)
            sessions = [backend.sessions.create() for _ in range(TOGETHER)]
            for session in sessions:
                wanted(session.eval("1+1"))
            after = _settled(at.worker)
            for session in sessions:
                session.delete()
            return (after - before) / TOGETHER

        yield probe


def _settled(root: int) -> float:
    """Memory, once no process comes or goes any more."""
    before: list[int] = []
    while (now := sorted(machine.tree(root))) != before:
        before = now
        time.sleep(SETTLED)
    return machine.pss(root)
