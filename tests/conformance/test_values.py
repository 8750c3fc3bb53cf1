"""Every value encoding, in both modes, over every transport and engine."""

from __future__ import annotations

import pytest
from harness.callers import Caller

pytestmark = pytest.mark.about("session")

BOTH = [
    ("None", None),
    ("True", True),
    ("-3", -3),
    ("2**53", 2**53),
    ("2**53 + 1", {"$int": "9007199254740993"}),
    ("-2**80", {"$int": "-1208925819614629174706176"}),
    ("1.5", 1.5),
    ("float('nan')", {"$float": "nan"}),
    ("float('-inf')", {"$float": "-inf"}),
    ("1e300 * 1e300", {"$float": "inf"}),
    ("'snow \\u2603 \\U0001F600'", "snow \u2603 \U0001f600"),
    ("'\\x00\\u2028'", "\x00\u2028"),
    ("b'\\x00\\xff'", {"$bytes": "AP8="}),
    ("bytearray(b'a')", {"$bytes": "YQ=="}),
    ("1 + 2j", {"$complex": [1.0, 2.0]}),
    ("__import__('decimal').Decimal('1.10')", {"$decimal": "1.10"}),
    ("__import__('datetime').datetime(2024, 2, 29, 1, 2, 3)", {"$datetime": "2024-02-29T01:02:03"}),
    ("__import__('datetime').date(2024, 2, 29)", {"$date": "2024-02-29"}),
    ("__import__('datetime').time(1, 2)", {"$time": "01:02:00"}),
    ("__import__('datetime').timedelta(days=1, seconds=2)", {"$timedelta": "P1DT2S"}),
    ("{'a': [1, {'b': None}]}", {"a": [1, {"b": None}]}),
    ("{1: 'x'}", {"$dict": [[1, "x"]]}),
    ("{'$a': 1}", {"$dict": [["$a", 1]]}),
    ("{}", {}),
    ("''", ""),
    ("[]", []),
]
MODES = [
    ("(1, (2,))", [1, [2]], {"$tuple": [1, {"$tuple": [2]}]}),
    ("{3}", [3], {"$set": [3]}),
    ("frozenset({3})", [3], {"$frozenset": [3]}),
    ("[(1, 2)]", [[1, 2]], [{"$tuple": [1, 2]}]),
]


@pytest.mark.parametrize("mode", ["plain", "tagged"])
@pytest.mark.parametrize(("expression", "encoded"), BOTH)
def test_a_value_comes_out(call: Caller, expression: str, encoded: object, mode: str) -> None:
    """Each plain value has the form that the contract gives it."""
    assert call("eval", {"expression": expression}, values=mode) == {"value": encoded}


@pytest.mark.parametrize(("expression", "encoded"), BOTH)
def test_a_value_goes_in(call: Caller, expression: str, encoded: object) -> None:
    """Sent in its encoded form, the value is what the expression gives."""
    code = f"repr(v) == repr({expression}) or bytes(v) == {expression}"
    assert call("eval", {"expression": code, "locals": {"v": encoded}}) == {"value": True}


@pytest.mark.about("everywhere")
@pytest.mark.parametrize(("expression", "plain", "tagged"), MODES)
def test_modes_differ_in_tuples_and_sets(call: Caller, expression: str, plain: object, tagged: object) -> None:
    """Mode `plain` makes arrays of them, mode `tagged` keeps them."""
    assert call("eval", {"expression": expression}) == {"value": plain}
    assert call("eval", {"expression": expression}, values="tagged") == {"value": tagged}


@pytest.mark.parametrize("mode", ["plain", "tagged"])
@pytest.mark.parametrize(("expression", "_plain", "tagged"), MODES)
def test_tags_are_taken_in_both_modes(call: Caller, expression: str, _plain: object, tagged: object, mode: str) -> None:
    """A request may use tags whatever mode it asks the answer in."""
    code = f"v == {expression} and type(v) is type({expression})"
    assert call("eval", {"expression": code, "locals": {"v": tagged}}, values=mode) == {"value": True}


@pytest.mark.about("everywhere")
@pytest.mark.parametrize("expression", ["object()", "[object()]", "{'a': lambda: 0}", "(i for i in ())", "'\\ud800'"])
def test_what_is_not_plain_is_a_handle(call: Caller, expression: str) -> None:
    """Anything with a part that has no JSON form comes back as one handle."""
    found = call("eval", {"expression": expression})
    assert found["isHandle"] is True
    assert found["handleId"]
    assert found["typeName"]
    assert found["repr"]


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
    from venvd_contract.errors import InvalidRequest

    with pytest.raises(InvalidRequest, match="fancy"):
        call("eval", {"expression": "1"}, values="fancy")
