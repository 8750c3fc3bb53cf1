"""Whether an idle session hears."""

from __future__ import annotations

import pytest

from venvd_core.pulse import Pulse, Sign
from venvd_core.slots import IDLE, RUNNING, SlotState


def slot(state: int = IDLE, sequence: int = 1, heard: int = 0) -> SlotState:
    return SlotState(state, sequence, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, heard)


@pytest.fixture
def asked() -> Pulse:
    """One of a session that was asked at 20 s, and has 100 s."""
    pulse = Pulse(100.0)
    assert pulse.look(slot(), 0.0) is Sign.NONE
    assert pulse.look(slot(), 9.0) is Sign.NONE
    assert pulse.look(slot(), 20.0) is Sign.ASK
    assert pulse.look(slot(), 21.0) is Sign.NONE
    return pulse


def test_one_that_does_nothing(asked: Pulse) -> None:
    """It is dead once its time is over, and not before."""
    assert asked.look(slot(), 119.0) is Sign.NONE
    assert asked.look(slot(), 120.0) is Sign.DEAD


@pytest.mark.parametrize("sign_of_life", [slot(heard=1), slot(RUNNING, 2), slot(IDLE, 2)])
def test_one_that_lives(asked: Pulse, sign_of_life: SlotState) -> None:
    """A number, a call that runs or one that was answered meanwhile begin its time anew."""
    assert asked.look(sign_of_life, 119.0) is Sign.NONE
    assert asked.look(slot(IDLE, sign_of_life.sequence, 1), 121.0) is not Sign.DEAD
    assert asked.look(slot(IDLE, sign_of_life.sequence, 1), 200.0) is Sign.ASK
    assert asked.number == 2
