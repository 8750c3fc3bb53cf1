"""New sessions and their floors: a fork and a fresh interpreter."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import venvd
from benchmarks import machine
from benchmarks.clients.sdk import check_answer
from benchmarks.clients.timing import MILLI
from benchmarks.figure import Address, Probe, UnmeasurableError

REST = 0.3
"""Seconds between two new sessions, in which the fork pool is filled again."""
PRELOADED = "all(name in __import__('sys').modules for name in {modules!r})"
COUNT = 4
"""Idle sessions whose memory is measured together."""
SETTLE = 0.3
"""Seconds between two looks at the processes."""
FRESH = "import {modules}; print(flush=True); input()"


@contextmanager
def fork(_at: Address, modules: list[str]) -> Iterator[Probe]:
    """`os.fork` of a process that has imported the modules, and one round trip over a pipe."""
    for name in modules:
        importlib.import_module(name)
    gc.freeze()
    yield lambda batch: statistics.median(_time_fork() for _ in range(batch)) * MILLI


def _time_fork() -> float:
    requests, request = os.pipe()
    replies, reply = os.pipe()
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.write(reply, os.read(requests, 1))
        os._exit(0)
    os.write(request, b"?")
    os.read(replies, 1)
    took = time.perf_counter() - start
    os.waitpid(child, 0)
    for descriptor in (requests, request, replies, reply):
        os.close(descriptor)
    return took


def _check_preloaded(backend: venvd.Backend, modules: list[str]) -> None:
    with backend.sessions.create() as session:
        if not session.eval(PRELOADED.format(modules=modules)):
            raise UnmeasurableError(f"sessions are not preloaded with {' and '.join(modules)}")


@contextmanager
def new_session(at: Address, modules: list[str], rest: float = REST) -> Iterator[Probe]:
    """Create a session and wait for its first answer. Deleting it and the pause of `rest` seconds are not measured."""
    with venvd.connect(at.url, at.token) as backend:
        _check_preloaded(backend, modules)

        def create() -> float:
            time.sleep(rest)
            start = time.perf_counter()
            session = backend.sessions.create()
            check_answer(session.eval("1+1"))
            took = time.perf_counter() - start
            session.delete()
            return took

        yield lambda batch: statistics.median(create() for _ in range(batch)) * MILLI


@contextmanager
def hand_out(at: Address, rest: float = REST) -> Iterator[Probe]:
    """Get a fork that was made ahead, and one answer of it. The pause of `rest` seconds is not measured."""

    def take() -> float:
        time.sleep(rest)
        start = time.perf_counter()
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(urlsplit(at.url).path)
            _, (descriptor,), _, _ = socket.recv_fds(door, 1, 1)
            with socket.socket(fileno=descriptor) as fork:
                fork.sendall(b"?")
                fork.recv(1)
                return time.perf_counter() - start

    yield lambda batch: statistics.median(take() for _ in range(batch)) * MILLI


@contextmanager
def forks_in_a_row(_at: Address, modules: list[str]) -> Iterator[Probe]:
    """`os.fork` of a process that has imported the modules, and one answer of each; all of them stay until the end."""
    for name in modules:
        importlib.import_module(name)
    gc.freeze()

    def probe(batch: int) -> float:
        children = []
        start = time.perf_counter()
        for _ in range(batch):
            ours, theirs = socket.socketpair()
            child = os.fork()
            if child == 0:
                ours.close()
                while data := theirs.recv(1):
                    theirs.sendall(data)
                os._exit(0)
            theirs.close()
            ours.sendall(b"?")
            ours.recv(1)
            children.append((child, ours))
        took = time.perf_counter() - start
        for child, connection in children:
            os.kill(child, signal.SIGKILL)  # a later fork holds the connection too, so closing does not end it
            connection.close()
            os.waitpid(child, 0)
        return took / batch * MILLI

    yield probe


@contextmanager
def sessions_in_a_row(at: Address, modules: list[str]) -> Iterator[Probe]:
    """New sessions one after another, each with one answer; all of them stay until the end."""
    with venvd.connect(at.url, at.token) as backend:
        _check_preloaded(backend, modules)

        def probe(batch: int) -> float:
            start = time.perf_counter()
            sessions = []
            for _ in range(batch):
                session = backend.sessions.create()
                check_answer(session.eval("1+1"))
                sessions.append(session)
            took = time.perf_counter() - start
            for session in sessions:
                session.delete()
            _settled_memory(at.worker)
            return took / batch * MILLI

        yield probe


@contextmanager
def server_memory(at: Address) -> Iterator[Probe]:
    """Memory of a server process that has answered nothing yet, in MB."""
    yield lambda _batch: machine.pss(at.server)


@contextmanager
def fresh_memory(_at: Address, modules: list[str]) -> Iterator[Probe]:
    """Memory of a fresh interpreter that imports the modules, in MB."""

    def probe(_batch: int) -> float:
        command = [sys.executable, "-c", FRESH.format(modules=", ".join(modules))]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise UnmeasurableError(f"an interpreter cannot import {' and '.join(modules)}")
            memory = machine.pss(process.pid)
            process.communicate(b"\n")
        return memory

    yield probe


@contextmanager
def idle_memory(at: Address, modules: list[str]) -> Iterator[Probe]:
    """Memory that the worker host needs for one more idle session that has answered once, in MB."""
    with venvd.connect(at.url, at.token) as backend:
        _check_preloaded(backend, modules)

        def probe(_batch: int) -> float:
            before = _settled_memory(at.worker)
            sessions = [backend.sessions.create() for _ in range(COUNT)]
            for session in sessions:
                check_answer(session.eval("1+1"))
            after = _settled_memory(at.worker)
            for session in sessions:
                session.delete()
            return (after - before) / COUNT

        yield probe


def _settled_memory(root: int) -> float:
    """Memory of a process and its descendants, after their number has stopped changing."""
    before: list[int] = []
    while (now := sorted(machine.tree(root))) != before:
        before = now
        time.sleep(SETTLE)
    return machine.pss(root)
