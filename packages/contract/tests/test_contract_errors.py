"""The error tree and its forms."""

from __future__ import annotations

from typing import Any

import pytest

from venvd_contract import errors
from venvd_contract.errors import BY_CODE, Internal, SessionLost, UserError, VenvdError, from_fields


def test_every_class_has_its_own_code() -> None:
    """Codes and classes stand in one table, the one that the module's docstring draws."""
    classes = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, VenvdError) and kind is not VenvdError
    ]
    assert {kind.code: kind for kind in classes} == BY_CODE
    assert len(BY_CODE) == len(classes)
    for code, kind in BY_CODE.items():
        assert f"{kind.__name__} " in str(errors.__doc__)
        assert code in str(errors.__doc__)


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=BY_CODE)
def test_an_error_survives_the_wire(kind: type[VenvdError]) -> None:
    """Fields of a reply and problem details give back the error that made them."""
    error = kind("what was wrong", error_type="ValueError", traceback="Traceback …", state_lost=True)
    for fields in (error.fields(), error.problem()):
        back = from_fields(fields)
        assert type(back) is kind
        assert (back.message, back.error_type, back.traceback, back.state_lost) == (
            "what was wrong",
            "ValueError",
            "Traceback …",
            True,
        )


def test_empty_fields_are_left_out() -> None:
    """A reply holds only what there is to say."""
    assert UserError("x").fields() == {"error": "x", "code": "user_error"}


def test_a_lost_session_has_lost_its_state() -> None:
    """`session_lost` says so without being told."""
    assert SessionLost("gone").fields()["stateLost"] is True


def test_problem_details() -> None:
    """The status stands in the body as it does in the response."""
    problem = UserError("x", error_type="E").problem()
    assert problem == {
        "type": "about:blank",
        "title": "user error",
        "status": 422,
        "detail": "x",
        "code": "user_error",
        "errorType": "E",
    }


@pytest.mark.parametrize(
    "fields", [{}, {"code": 3, "error": []}, {"code": "made up", "traceback": 7, "stateLost": "yes"}, {"code": None}]
)
def test_hostile_fields_are_dropped(fields: dict[str, Any]) -> None:
    """Fields of the wrong type are ignored, and an unknown code is a defect of the peer."""
    error = from_fields(fields)
    assert type(error) is Internal
    assert error.message
    assert error.traceback is None
    assert error.state_lost is False
