"""Leases through the SDK, over every transport and engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest
from harness.stack import Running

import venvd

pytestmark = pytest.mark.about("transport")

DIES = """
import os, sys, venvd
session = venvd.connect(sys.argv[1], token=sys.argv[2], lease=1).session(sys.argv[3])
held = session.eval("Box()")
assert held.size == 1
os._exit(0)
"""
BOX = "class Box:\n    size = 1\n    def __del__(self): open('freed', 'w').close()"


def until(holds: object, what: str) -> None:
    end = time.monotonic() + 120
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_what_a_dead_client_held_is_freed(running: Running) -> None:
    """A program that is killed lets go of nothing itself; its lease does."""
    with venvd.connect(running.url, token=running.token) as backend, backend.sessions.create() as session:
        session.exec(BOX)
        subprocess.run([sys.executable, "-c", DIES, running.url, running.token, session.name], check=True)
        until(lambda: [each.path for each in session.files.list()] == ["freed"], "the object is still held")
        assert session.handles() == []


def test_a_living_client_keeps_what_it_holds(running: Running) -> None:
    """Proxies outlive many leases, used or not, also beside some whose session has started afresh."""
    with (
        venvd.connect(running.url, token=running.token, lease=2) as backend,
        backend.sessions.create() as session,
        backend.sessions.create() as other,
    ):
        lost = session.wrap([0])
        session.reset()
        session.exec(BOX)
        held, there = session.eval("Box()"), other.wrap([1, 2])
        leases = [each.leaseSeconds for each in session.handles()]
        assert len(leases) == 1
        assert leases[0] is not None
        time.sleep(5)
        assert held.size == 1
        assert len(there) == 2
        del lost


def test_a_living_client_of_asyncio(running: Running) -> None:
    """The same for asyncio."""

    async def work() -> None:
        async with venvd.connect_async(running.url, token=running.token, lease=2) as backend:
            held = await backend.eval("type('Box', (), {'size': 3})()")
            await asyncio.sleep(5)
            assert await backend.eval("h.size", h=held) == 3

    asyncio.run(work())
