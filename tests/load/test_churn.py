"""Sessions that come and go, and many at once: nothing is left of them.

VENVD_CHURN is how many come and go on each transport in `make test-long` (500).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness.callers import CALLERS, Caller
from harness.measure import MIB, left, parts, settled
from harness.stack import Running, Stack
from harness.waiting import wait_until

pytestmark = pytest.mark.about("session")

LONG = int(os.environ.get("VENVD_CHURN", "500"))
ALIVE = 50
PRELOAD = ("decimal", "json", "http.client", "unittest.mock")
GROWTH = {"server": 24 * MIB, "warden": 8 * MIB, "zygote": 4 * MIB, "sessions": 4 * MIB}
SETTLED_AFTER = 25
"""Sessions after which caches and pools have the size that they keep."""


@pytest.fixture
def running(stack: Stack, kind: str) -> Iterator[Running]:
    made = stack.start(kind, preload=PRELOAD)
    yield made
    stack.stop(made)


@pytest.fixture
def call(kind: str, running: Running) -> Iterator[Caller]:
    made = CALLERS[kind](running.url, running.token)
    yield made
    made.close()


def one(call: Caller) -> None:
    """A session that is used, prints, starts a process, and goes."""
    made = call("session.create", {})["id"]
    assert call("eval", {"expression": "import decimal; str(decimal.Decimal(1) + 1)"}, session=made) == {"value": "2"}
    call("session.delete", {"id": made})


@pytest.mark.parametrize("sessions", [50, pytest.param(LONG, marks=pytest.mark.long)])
def test_sessions_that_come_and_go(
    stack: Stack, kind: str, running: Running, call: Caller, record_property: Any, sessions: int
) -> None:
    """Afterwards processes, descriptors, threads, slots, directories and memory are as before."""
    processes = parts(stack, running)
    for _ in range(SETTLED_AFTER):
        one(call)
    before = settled(processes, 1)
    began = time.monotonic()
    for _ in range(sessions):
        one(call)
    took = time.monotonic() - began
    settled(processes, 1)
    wait_until(lambda: not left(before, processes.held(), GROWTH), lambda: left(before, processes.held(), GROWTH))
    assert [item["id"] for item in call("session.list")["sessions"]] == ["default"]
    work = stack.home / "backends" / running.record.launch_id / "work"
    # those of the zygote, of the default session, of the standby and of two forks
    wait_until(lambda: len(list(work.iterdir())) == 5, lambda: f"directories are left: {sorted(work.iterdir())[:10]}")
    record_property("figure", f"{kind}: {sessions} sessions came and went in {took:.1f} s")
    for name, now in processes.held().items():
        record_property("figure", f"  {name}: {now} (before: {before[name]})")


@pytest.mark.long
def test_many_sessions_at_once(stack: Stack, kind: str, running: Running, call: Caller, record_property: Any) -> None:
    """Fifty, made at once and used at once, each with a process and state of its own; afterwards all is as before."""
    processes = parts(stack, running)
    one(call)
    before = settled(processes, 1)

    def live(number: int) -> str:
        own = call.fresh()
        made = str(own("session.create", {})["id"])
        own("eval", {"expression": f"number = {number}"}, session=made)
        own.close()
        return made

    def end(name: str) -> None:
        own = call.fresh()
        own("session.delete", {"id": name})
        own.close()

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(live, range(ALIVE)))
        held = settled(processes, ALIVE + 1)
        state = "import os; [number, os.getpid()]"
        values = [call("eval", {"expression": state}, session=name)["value"] for name in made]
        assert [number for number, _ in values] == list(range(ALIVE))
        assert len({pid for _, pid in values}) == ALIVE
        list(pool.map(end, made))
    settled(processes, 1)
    wait_until(lambda: not left(before, processes.held(), GROWTH), lambda: left(before, processes.held(), GROWTH))
    for name, now in held.items():
        record_property("figure", f"{kind}, {ALIVE} sessions: {name}: {now} (before: {before[name]})")
