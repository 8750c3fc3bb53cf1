"""Events for the controller's audit log: what is noted, counted, forgotten and lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from venvd_contract.errors import Conflict, Unauthenticated
from venvd_core.audit import MOST, MOST_REFUSALS, AuditEvents
from venvd_core.backend import Request

CALLER = SimpleNamespace(peer="192.0.2.1", name="ci", key=None)
WRONG = Unauthenticated("the token is unknown")


def test_what_was_read_is_forgotten() -> None:
    """A reader gets what is newer than its position, again if it asks again, and what it has read goes."""
    events = AuditEvents()
    events.add_session("session.create", "one", CALLER)
    first = events.read("")
    assert [(each.session, each.key, each.peer) for each in first.events] == [("one", "ci", "192.0.2.1")]
    assert first == events.read("")
    assert first.position == events.position
    events.add_session("session.delete", "one", CALLER)
    second = events.read(first.position)
    assert [each.action for each in second.events] == ["session.delete"]
    assert events.read("another-1").events == second.events
    assert events.read(second.position).events == []
    for odd in (f"{second.position}0000000000000000000000", "-", "x", f"{second.position.partition('-')[0]}-²"):
        assert events.read(odd).dropped in {0, 2}


def test_what_is_lost_is_counted() -> None:
    """Events that found no room are a number."""
    events = AuditEvents()
    events.add_session("session.create", "first", None)
    position = events.read("").position
    for number in range(MOST + 7):
        events.add_session("session.create", str(number), None)
    read_events = events.read(position)
    assert (read_events.dropped, len(read_events.events), read_events.events[0].session) == (7, MOST, "7")


def test_equal_refusals_are_one_event() -> None:
    """Refusals are counted by key, peer and error until they are read; many peers are one."""
    events = AuditEvents()
    for _ in range(5):
        events.add_refusal(None, "192.0.2.1", WRONG)
    events.add_refusal("old", "192.0.2.1", WRONG)
    first = events.read("")
    assert [(each.key, each.count) for each in first.events] == [(None, 5), ("old", 1)]
    events.add_refusal(None, "192.0.2.1", WRONG)
    assert [each.count for each in events.read(first.position).events] == [1]
    for number in range(3 * MOST_REFUSALS):
        events.add_refusal(None, str(number), WRONG)
    newest = events.read(first.position).events
    assert (newest[-1].peer, newest[-1].count) == ("others", 2 * MOST_REFUSALS)
    assert len(newest) == 1 + MOST_REFUSALS + 1


@pytest.mark.slow
def test_sessions_leave_events(run: Any, wardens: Any, serve: Any) -> None:
    """Each beginning and end of a session is an event with its caller and result; an idle one ends by itself."""
    wardens.start()

    async def work() -> None:
        async with serve() as client:
            await client.ready()

            async def ask(command: str, payload: bytes) -> Any:
                return await client.backend.call(Request(command, payload, caller=CALLER))

            await ask("session.create", b'{"name": "one"}')
            with pytest.raises(Conflict):
                await ask("session.create", b'{"name": "one"}')
            await ask("session.reset", b'{"id": "default"}')
            await ask("session.delete", b'{"id": "one"}')
            await ask("session.create", b'{"idleTimeout": 0.1}')
            await client.until(lambda: client.backend.audit.read("").events[-1].action == "session.end")
            events = client.backend.audit.read("").events
            name = events[-1].session
            assert [(each.action, each.session, each.key, each.code) for each in events] == [
                ("session.create", "one", "ci", None),
                ("session.create", "one", "ci", "conflict"),
                ("session.reset", "default", "ci", None),
                ("session.delete", "one", "ci", None),
                ("session.create", name, "ci", None),
                ("session.end", name, None, None),
            ]

    run(work)
