"""Leases through the SDK, over every transport and engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence

import pytest
from harness.stack import Running
from harness.waiting import TIMEOUT, wait_until

import venvd
from venvd_contract.commands import HandleInfo

pytestmark = pytest.mark.about("transport")

DIES = """
import os, sys, venvd
session = venvd.connect(sys.argv[1], token=sys.argv[2], lease=1).session(sys.argv[3])
held = session.eval("Box()")
assert held.size == 1
os._exit(0)
"""
BOX = "class Box:\n    size = 1\n    def __del__(self): open('freed', 'w').close()"


LEASE = 4.5
"""Seconds; the client renews it every third of that."""
RENEWALS = 4
"""More than fit into one lease."""


class Renewals:
    """Counts how often the lease of the one handle of a session was renewed: then the time that it has left rises."""

    def __init__(self) -> None:
        self.count = 0
        self._left = LEASE

    def add(self, handles: Sequence[HandleInfo]) -> bool:
        """Take a new list of handles; return whether there were enough renewals."""
        (left,) = [each.leaseSeconds for each in handles]
        assert left is not None
        self.count += left > self._left + LEASE / 10
        self._left = left
        return self.count >= RENEWALS


def test_what_a_dead_client_held_is_freed(running: Running) -> None:
    """A program that is killed lets go of nothing itself; its lease does."""
    with venvd.connect(running.url, token=running.token) as backend, backend.sessions.create() as session:
        session.exec(BOX)
        subprocess.run([sys.executable, "-c", DIES, running.url, running.token, session.name], check=True)
        wait_until(lambda: [each.path for each in session.files.list()] == ["freed"], "the object is still held")
        assert session.handles() == []


def test_a_living_client_keeps_what_it_holds(running: Running) -> None:
    """Proxies outlive many leases, used or not, also beside some whose session has started afresh."""
    with (
        venvd.connect(running.url, token=running.token, lease=LEASE) as backend,
        backend.sessions.create() as session,
        backend.sessions.create() as other,
    ):
        lost = session.wrap([0])
        session.reset()
        session.exec(BOX)
        held, there = session.eval("Box()"), other.wrap([1, 2])
        renewals = Renewals()
        wait_until(lambda: renewals.add(session.handles()), lambda: f"{renewals.count} renewals")
        assert held.size == 1
        assert len(there) == 2
        del lost


def test_a_living_client_of_asyncio(running: Running) -> None:
    """The same for asyncio."""

    async def work() -> None:
        async with (
            venvd.connect_async(running.url, token=running.token, lease=LEASE) as backend,
            await backend.sessions.create() as session,
        ):
            held = await session.eval("type('Box', (), {'size': 3})()")
            renewals = Renewals()
            while True:
                if renewals.add(await session.handles()):
                    break
                await asyncio.sleep(0.1)
            assert await session.eval("h.size", h=held) == 3

    asyncio.run(asyncio.wait_for(work(), TIMEOUT))
