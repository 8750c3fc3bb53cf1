"""Detecting idle sessions that hang."""

from __future__ import annotations

import pytest

from venvd_contract.internal.slots import IDLE, RUNNING
from venvd_core.session.heartbeat import Action, Heartbeat
from venvd_core.slots import SlotState


def slot(state: int = IDLE, sequence: int = 1, heard: int = 0) -> SlotState:
    return SlotState(state, sequence, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, heard)


@pytest.fixture
def heartbeat() -> Heartbeat:
    """A heartbeat of a session that was asked at 20 s and has 100 s to answer."""
    heartbeat = Heartbeat(100.0)
    assert heartbeat.check(slot(), 0.0) is Action.NONE
    assert heartbeat.check(slot(), 9.0) is Action.NONE
    assert heartbeat.check(slot(), 20.0) is Action.ASK
    assert heartbeat.check(slot(), 21.0) is Action.NONE
    return heartbeat


def test_a_session_that_does_nothing_is_ended(heartbeat: Heartbeat) -> None:
    """A session that does not answer is ended when its time is over, and not before."""
    assert heartbeat.check(slot(), 119.0) is Action.NONE
    assert heartbeat.check(slot(), 120.0) is Action.END


@pytest.mark.parametrize("sign_of_life", [slot(heard=1), slot(RUNNING, 2), slot(IDLE, 2)])
def test_a_sign_of_life_begins_the_time_anew(heartbeat: Heartbeat, sign_of_life: SlotState) -> None:
    """The number, a running call or a call that was answered meanwhile begins the time anew."""
    assert heartbeat.check(sign_of_life, 119.0) is Action.NONE
    assert heartbeat.check(slot(IDLE, sign_of_life.sequence, 1), 121.0) is not Action.END
    assert heartbeat.check(slot(IDLE, sign_of_life.sequence, 1), 200.0) is Action.ASK
    assert heartbeat.number == 2
