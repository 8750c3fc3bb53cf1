"""64 clients at once on each transport: no error, and nothing is left behind.

VENVD_LOAD_SECONDS is how long they go on in `make test-long` (20). The figures stand in the summary.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from harness.callers import CALLERS, Caller
from harness.load import CLIENTS, load
from harness.measure import MIB, left, parts, settled
from harness.stack import Running, Stack
from harness.waiting import wait_until

pytestmark = pytest.mark.about("session")

LONG = float(os.environ.get("VENVD_LOAD_SECONDS", "20"))

SESSIONS = 7
WARM_UP = 2.0
GROWTH = {"server": 24 * MIB, "warden": 4 * MIB, "zygote": 4 * MIB, "sessions": 24 * MIB}
"""Bytes that memory may grow by, however long the load was: allocators do not give all of it back."""


@pytest.fixture
def sessions(call: Caller) -> Iterator[list[str]]:
    made = [call("session.create", {"name": f"load-{number}"})["id"] for number in range(SESSIONS)]
    yield ["default", *made]
    for name in made:
        call("session.delete", {"id": name})


@pytest.fixture
def call(kind: str, running: Running) -> Iterator[Caller]:
    made = CALLERS[kind](running.url, running.token)
    yield made
    made.close()


@pytest.mark.parametrize("seconds", [2.0, pytest.param(LONG, marks=pytest.mark.long)])
def test_many_clients_at_once(
    stack: Stack, kind: str, running: Running, sessions: list[str], call: Caller, record_property: Any, seconds: float
) -> None:
    """Every answer is right; handles, sessions, descriptors, processes, threads and memory are as before."""
    processes = parts(stack, running)
    warm = load(call.fresh, sessions, WARM_UP)
    assert not warm.wrong
    before = settled(processes, len(sessions))
    tally = load(call.fresh, sessions, seconds)
    assert not tally.wrong
    after = settled(processes, len(sessions))
    wait_until(lambda: not left(before, processes.held(), GROWTH), lambda: left(before, processes.held(), GROWTH))
    record_property("figure", f"{kind}, {CLIENTS} clients, {seconds:g} s: {tally}")
    for name, now in after.items():
        record_property("figure", f"  {name}: {now} (before: {before[name]})")
    listed = call("session.list")["sessions"]
    assert {item["id"] for item in listed} == set(sessions)
    assert {item["id"]: item["handles"] for item in listed} == dict.fromkeys(sessions, 0)
    assert all(item["restarts"] == 0 and item["queued"] == 0 for item in listed)
