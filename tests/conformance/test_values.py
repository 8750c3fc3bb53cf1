"""Every value of docs/values.md, in both modes, over every transport and engine."""

from __future__ import annotations

import json

import pytest
from harness.callers import Caller
from harness.values import IMPORTS, ROWS, Row

from venvd_contract.errors import InvalidRequest

pytestmark = pytest.mark.about("session")

MIXED = "[2**60, (1, {2}), {3: float('nan')}, b'a']"


@pytest.mark.parametrize("row", [row for row in ROWS if row.package is None], ids=lambda row: row.expression)
def test_each_row_of_the_table(call: Caller, row: Row) -> None:
    """A value comes out in the form of its mode, or behind a handle, and its tagged form goes in as the value."""
    code = f"{IMPORTS}\n{row.expression}"
    for mode, expected in (("plain", row.plain), ("tagged", row.tagged)):
        result = call("eval", {"expression": code}, values=mode)
        assert result.get("isHandle") is True if expected is None else result == {"value": json.loads(expected)}
    if row.tagged is not None:
        code = f"{IMPORTS}\nrepr(v) == repr({row.expression})"
        assert call("eval", {"expression": code, "locals": {"v": json.loads(row.tagged)}}) == {"value": True}


@pytest.mark.about("everywhere")
def test_the_modes(call: Caller) -> None:
    """The usual mode is `plain`, which never tags; a request may use tags whatever mode it asks the answer in."""
    plain = [2**60, [1, [2]], {"3": None}, "YQ=="]
    tagged = [
        {"$int": str(2**60)},
        {"$tuple": [1, {"$set": [2]}]},
        {"$dict": [[3, {"$float": "nan"}]]},
        {"$bytes": "YQ=="},
    ]
    for mode, expected in ((None, plain), ("plain", plain), ("tagged", tagged)):
        assert call("eval", {"expression": MIXED}, values=mode) == {"value": expected}
        assert call("eval", {"expression": "v", "locals": {"v": tagged}}, values=mode) == {"value": expected}


@pytest.mark.about("everywhere")
def test_every_result_has_the_mode(call: Caller) -> None:
    """Results of `exec`, calls, attributes and background calls are natural JSON too."""
    methods = "    def get(self): return self.held\n    def _repr_json_(self): return 10**400\n"
    code = f"class Box:\n    held = {MIXED}\n{methods}"
    plain = [2**60, [1, [2]], {"3": None}, "YQ=="]
    shown = call("exec", {"code": f"{code}display(Box())\nBox.held"})
    assert shown["result"] == {"value": plain}
    assert shown["display"][0]["application/json"] == 10**400
    box = call("eval", {"expression": "Box()"})["handleId"]
    assert call("getattr", {"handleId": box, "attributeName": "held"}) == {"value": plain}
    assert call("call", {"handleId": box, "methodName": "get"}) == {"value": plain}
    left = call("call.start", {"command": "eval", "payload": {"expression": MIXED}})["id"]
    assert call("call.get", {"id": left, "wait": 60})["result"] == {"value": plain}


@pytest.mark.about("everywhere")
@pytest.mark.parametrize("expression", ["object()", "[object()]", "{'a': lambda: 0}", "(i for i in ())", "'\\ud800'"])
def test_what_is_not_plain_is_a_handle(call: Caller, expression: str) -> None:
    """Anything with a part that has no JSON form comes back as one handle."""
    result = call("eval", {"expression": expression})
    assert result["isHandle"] is True
    assert result["handleId"]
    assert result["typeName"]
    assert result["repr"]


@pytest.mark.about("everywhere")
def test_a_megabyte_of_text(call: Caller) -> None:
    """A long text goes in and out unchanged."""
    text = "0123456789abcdef" * 65536
    assert call("eval", {"expression": "t", "locals": {"t": text}}) == {"value": text}


@pytest.mark.about("everywhere")
def test_a_value_with_line_ends(call: Caller) -> None:
    """Line ends inside a text survive the framing."""
    text = "a\nb\r\nc\u2028d\\n"
    assert call("eval", {"expression": "t", "locals": {"t": text}}) == {"value": text}


def test_an_unknown_mode_is_refused(call: Caller) -> None:
    """A value mode that does not exist is named in the error."""
    with pytest.raises(InvalidRequest, match="fancy"):
        call("eval", {"expression": "1"}, values="fancy")
