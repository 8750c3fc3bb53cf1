"""The table of commands, and the checking of requests."""

from __future__ import annotations

from typing import Any

import pytest

from venvd_contract.commands import BY_NAME, COMMANDS, check_payload
from venvd_contract.errors import InvalidRequest
from venvd_contract.venvs import PASSED_ON


def test_names_are_unique() -> None:
    """No command, no method and no path is there twice, and what is planned is not there yet."""
    for names in (
        [command.name for command in COMMANDS],
        [command.rpc for command in COMMANDS],
        [command.http for command in COMMANDS],
    ):
        assert len(names) == len(set(names))
    assert not PASSED_ON & set(BY_NAME)


def test_only_ping_is_open() -> None:
    """Every command but `ping` takes a token."""
    assert [command.name for command in COMMANDS if command.open] == ["ping"]


def test_defaults_are_filled_in() -> None:
    """Absent and null are the same, and defaults are never shared."""
    full = {"handleId": "h", "methodName": "m", "args": [], "kwargs": {}, "asHandle": None}
    assert check_payload("call", {"handleId": "h", "methodName": "m", "args": None}) == full
    one, other = check_payload("eval", {}), check_payload("eval", None)
    assert one == other == {"expression": None, "code": None, "locals": {}, "env": {}, "asHandle": None}
    assert one["locals"] is not other["locals"]


@pytest.mark.parametrize(
    ("command", "payload", "says"),
    [
        ("import", {}, '"moduleName" is missing'),
        ("import", {"moduleName": None}, '"moduleName" is missing'),
        ("import", {"moduleName": 3}, '"moduleName" takes a string, not a number'),
        ("import", [], "object, not an array"),
        ("import", "os", "object, not a string"),
        ("call", {"handleId": "x", "methodName": "y", "args": {}}, '"args" takes an array, not an object'),
        ("eval", {"locals": []}, '"locals" takes an object, not an array'),
        ("exec", {"code": True}, "not a boolean"),
        ("dispose", {"handleIds": ["a", 1]}, "an array of strings"),
        ("session.create", {"env": {"A": 1}}, "an object of strings"),
        ("session.create", {"idleTimeout": "1"}, "a number"),
        ("session.create", {"idletimeout": 1}, 'the field "idletimeout" is unknown; is "idleTimeout" meant?'),
        ("eval", {"expresion": "1"}, 'eval: the field "expresion" is unknown; is "expression" meant?'),
        ("session.list", {"x": 1}, 'the field "x" is unknown; known are none'),
        ("ping", {"x" * 1000: 1}, f'the field "{"x" * 80}" is unknown'),
    ],
)
def test_the_fault_is_named(command: str, payload: Any, says: str) -> None:
    """A wrong request is refused with the field and what it takes."""
    with pytest.raises(InvalidRequest, match=says):
        check_payload(command, payload)


def test_fields_of_older_clients_pass() -> None:
    """What clients of an older .NET host send beside the fields of a command is dropped."""
    older = {"handleId": "h", "typeName": "list", "isValid": True, "returnType": "Int32"}
    assert check_payload("dispose", older) == {"handleId": "h", "handleIds": None}


def test_whole_numbers_are_numbers() -> None:
    """A field that takes a number takes a whole one."""
    assert check_payload("session.create", {"idleTimeout": 3})["idleTimeout"] == 3


def test_any_value_is_any_value() -> None:
    """A field without a type takes whatever JSON can hold."""
    for value in (None, 0, "", [], {"$handle": "x"}):
        assert check_payload("wrap", {"value": value}) == {"value": value}
