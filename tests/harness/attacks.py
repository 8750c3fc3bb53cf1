"""Backends under attack, and the code that attacks from a session."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.callers import CALLERS, Caller
from harness.door import Door, door
from harness.measure import Parts, parts
from harness.stack import Running, SharedStacks, Stack

FINDS_STREAM = """
import array, json, os, re, socket, time
def sockets(kind):
    for name in os.listdir("/proc/self/fd"):
        try:
            found = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if found.family == socket.AF_UNIX and found.type == kind:
            yield found
stream = next(sockets(socket.SOCK_STREAM))
control = next(sockets(socket.SOCK_SEQPACKET))
stream.setblocking(True)
def say(text):
    stream.sendall(text if isinstance(text, bytes) else text.encode())
"""
"""Code that finds the stream and the control socket of its session; `say` writes to the stream."""
FINDS_SLOTS = """
import mmap, stat
def is_slots(path):
    name = os.readlink(path)  # gVisor tells no name of what came from outside
    return "venvd-slots" in name or (name.startswith("host:") and stat.S_ISREG(os.stat(path).st_mode))
slots = next(filter(is_slots, [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]))
with open(slots, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0)
"""
"""Code that finds the slots of all sessions, after `FINDS_STREAM`."""


@dataclass
class Target:
    """A backend under attack."""

    kind: str
    stack: Stack
    running: Running

    @property
    def main(self) -> Door:
        return door(self.kind, self.running)

    @property
    def probes(self) -> Door:
        return door(self.kind, self.running, probes=True)

    @property
    def parts(self) -> Parts:
        """The processes of a backend of the local engine."""
        return parts(self.stack, self.running)

    def doors(self) -> list[Door]:
        """Everywhere it listens."""
        return list(dict.fromkeys([self.main, self.probes]))

    @contextlib.contextmanager
    def caller(self) -> Iterator[Caller]:
        with contextlib.closing(CALLERS[self.kind](self.running.url, self.running.token)) as made:
            yield made

    @contextlib.contextmanager
    def session(self, **fields: Any) -> Iterator[str]:
        """A session of the test's own, by its ID."""
        with self.caller() as call:
            made = str(call("session.create", fields)["id"])
            yield made
            call("session.delete", {"id": made})

    def attack(self, code: str, session: str = "default", timeout: float = 60) -> Any:
        """Run code in a session, and return the value of its last expression, which is plain data."""
        with self.caller() as call:
            return call("eval", {"expression": code}, session=session, timeout=timeout)["value"]

    def default(self) -> dict[str, Any]:
        with self.caller() as call:
            info: dict[str, Any] = call("session.get", {"id": "default"})
        return info

    def serves(self) -> None:
        """Assert that the next client is served, and so is the one that asks for its health."""
        with self.caller() as call:
            assert call("eval", {"expression": "6 * 7"}) == {"value": 42}
        with self.probes.open() as raw:
            raw.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert raw.rest().startswith(b"HTTP/1.1 200 ")


@contextlib.contextmanager
def started(stack: Stack, kind: str, **settings: Any) -> Iterator[Target]:
    """A backend of the test's own, with the proof of `prove_unharmed` at the end."""
    target = Target(kind, stack, stack.start(kind, **settings))
    try:
        with prove_unharmed(target):
            yield target
    finally:
        stack.stop(target.running)


@contextlib.contextmanager
def shared(stacks: SharedStacks, stack: Stack, kind: str, role: str = "", **settings: str) -> Iterator[Target]:
    """A backend that all modules share, with the proof of `prove_unharmed` at the end; one that fails is replaced."""
    target = Target(kind, stack, stacks.backend(stack, kind, role=role, **settings))
    try:
        with prove_unharmed(target):
            yield target
    except BaseException:
        stacks.discard(target.running)
        raise


@contextlib.contextmanager
def prove_unharmed(target: Target) -> Iterator[None]:
    """Assert that both halves are still the same processes afterwards, and still serve."""
    inspect, record = target.stack.engine.inspect, target.running.record
    before = inspect(record)
    held = target.parts if target.stack.engine.name == "local" else None
    yield
    target.serves()
    assert inspect(record) == before
    assert held is None or target.parts == held
