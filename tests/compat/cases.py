"""What a program does with an old client, and what it must get: each case is one call and its right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from compat.clients import Client
from compat.dotnet.errors import DotNetError
from compat.dotnet.types import (
    BOOLEAN,
    BYTES,
    DATE_ONLY,
    DATETIME,
    DECIMAL,
    DOUBLE,
    INT32,
    INT64,
    JSON_ELEMENT,
    OBJECT,
    SINGLE,
    STRING,
    UINT64,
    JsonElement,
    Type,
    array,
    dictionary,
    listed,
    nullable,
)

TEXT = "0123456789abcdef" * 16_384
CLOCK = "__import__('datetime').datetime(2024, 2, 29, 1, 2, 3, 40506)"
ZONED = f"{CLOCK}.replace(tzinfo=__import__('datetime').timezone.utc)"
DEEP = 50

Run = Callable[[Client], Any]


@dataclass(frozen=True)
class Case:
    what: str
    run: Run
    answer: Any


NUMBERS: list[tuple[str, Type, Any]] = [
    ("-2**31", INT32, -(2**31)),
    ("2**53 + 1", INT64, 2**53 + 1),
    ("2**60", INT64, 2**60),
    ("-2**63", INT64, -(2**63)),
    ("2**64 - 1", UINT64, 2**64 - 1),
    ("2**100", DOUBLE, 2.0**100),
    ("2**90", DECIMAL, Decimal(2**90)),
    ("2**100", JSON_ELEMENT, 2**100),
    ("[2**60, -2**60]", array(INT64), [2**60, -(2**60)]),
    ("__import__('time').time_ns() > 2**60", BOOLEAN, True),
    ("1.0", DOUBLE, 1.0),
    ("0.1", DOUBLE, 0.1),
    ("0.1", SINGLE, 0.10000000149011612),
    ("5e-324", DOUBLE, 5e-324),
    ("1.7976931348623157e308", DOUBLE, 1.7976931348623157e308),
    ("-1e22", DOUBLE, -1e22),
    ("7", nullable(INT32), 7),
    ("True", BOOLEAN, True),
    ("True", OBJECT, True),
    ("None", nullable(INT32), None),
    ("None", STRING, None),
    ("None", OBJECT, None),
    ("float('nan')", nullable(DOUBLE), None),
    ("[float('inf'), 1.5]", array(nullable(DOUBLE)), [None, 1.5]),
    ("float('-inf')", JSON_ELEMENT, None),
    ("__import__('decimal').Decimal('1.10')", DECIMAL, Decimal("1.10")),
    ("__import__('decimal').Decimal('-1E+3')", DOUBLE, -1000.0),
    ("__import__('decimal').Decimal('NaN')", nullable(DOUBLE), None),
]
TEXTS: list[tuple[str, Type, Any]] = [
    ("''", STRING, ""),
    ("'snow \\u2603 \\U0001F600'", STRING, "snow \u2603 \U0001f600"),
    ("'\\x00\\t\\r\\n\\u2028\\x7f\"\\\\/'", STRING, '\x00\t\r\n\u2028\x7f"\\/'),
    ("'0123456789abcdef' * 16384", STRING, TEXT),
    ("'12'", STRING, "12"),
    ("b'\\x00\\xff'", BYTES, b"\x00\xff"),
    ("b'\\xfb\\xff' * 3", STRING, "+//7//v/"),
    ("bytearray(b'a')", BYTES, b"a"),
    ("bytes(200_000)", BYTES, bytes(200_000)),
    (CLOCK, DATETIME, datetime(2024, 2, 29, 1, 2, 3, 40506)),  # noqa: DTZ001
    (ZONED, DATETIME, datetime(2024, 2, 29, 1, 2, 3, 40506, tzinfo=UTC)),
    ("__import__('datetime').date(2024, 2, 29)", DATE_ONLY, date(2024, 2, 29)),
    ("__import__('datetime').date(2024, 2, 29)", STRING, "2024-02-29"),
    ("__import__('datetime').time(1, 2, 3)", STRING, "01:02:03"),
    ("__import__('datetime').timedelta(days=1, seconds=2)", STRING, "P1DT2S"),
]
COLLECTIONS: list[tuple[str, Type, Any]] = [
    ("[]", listed(INT32), []),
    ("{}", dictionary(INT32), {}),
    ("[1, None]", array(nullable(INT32)), [1, None]),
    ("(1, 2)", listed(INT32), [1, 2]),
    ("{3}", array(INT32), [3]),
    ("frozenset({3})", array(INT32), [3]),
    ("[(1, (2,)), {3}]", JSON_ELEMENT, [[1, [2]], [3]]),
    ("{1: 2}", dictionary(INT32), {"1": 2}),
    ("{0: 1.5, 1: 2.5, 2: float('nan')}", dictionary(nullable(DOUBLE)), {"0": 1.5, "1": 2.5, "2": None}),
    ("{True: 1, None: 2, 1.5: 3, 'a': 4}", dictionary(INT32), {"true": 1, "null": 2, "1.5": 3, "a": 4}),
    ("{2**60: 2**60}", dictionary(INT64), {str(2**60): 2**60}),
    ("{'$a': 1, 'B c': 2}", dictionary(INT32), {"$a": 1, "B c": 2}),
    ("{'Value': {'HandleId': 'x'}, 'isHandle': True}", JSON_ELEMENT, {"Value": {"HandleId": "x"}, "isHandle": True}),
    ("[{'at': __import__('datetime').date(2024, 2, 29), 'raw': b'a'}]", OBJECT, [{"at": "2024-02-29", "raw": "YQ=="}]),
    ("list(range(100_000))", listed(INT32), list(range(100_000))),
    (f"__import__('json').loads('[' * {DEEP} + ']' * {DEEP})", JSON_ELEMENT, eval("[" * DEEP + "]" * DEEP)),  # noqa: S307
]
ARGUMENTS: list[tuple[Any, str]] = [
    (None, "None"),
    (True, "True"),
    (2**60, "2**60"),
    (0.1, "0.1"),
    (1e20, "1e20"),
    (2.0, "2"),  # .NET writes it without a fraction
    ("", "''"),
    ("a\"b'c<d>&e+f`g\\h\t\r\n\x00é☃\U0001f600", "'a\"b\\'c<d>&e+f`g\\\\h\\t\\r\\n\\x00é☃\\U0001f600'"),
    (TEXT, "'0123456789abcdef' * 16384"),
    ([1, None, ["x", {}]], "[1, None, ['x', {}]]"),
    ({"Key": None, "b c": [0.5]}, "{'Key': None, 'b c': [0.5]}"),
    (b"\x00\xff", "'AP8='"),
    (datetime(2024, 2, 29, 1, 2, 3), "'2024-02-29T01:02:03'"),  # noqa: DTZ001
    (Decimal("1.10"), "1.1"),
    ([0.5] * 5_000, "[0.5] * 5_000"),
]


def natural(value: Any) -> Any:
    return value.natural() if isinstance(value, JsonElement) else value


def answers(values: list[tuple[str, Type, Any]]) -> list[Case]:
    """Each value out of eval, a call and an attribute."""
    made = []
    for expression, kind, answer in values:
        what = f"{expression[:60]} as {kind.name}"
        made.append(Case(f"eval {what}", lambda c, e=expression, k=kind: natural(c.evaluate(k, e)), answer))
        made.append(Case(f"call {what}", lambda c, e=expression, k=kind: natural(call_eval(c, e, k)), answer))
        made.append(Case(f"getattr {what}", lambda c, e=expression, k=kind: natural(attribute_of(c, e, k)), answer))
    return made


def call_eval(client: Client, expression: str, kind: Type) -> Any:
    return client.call_method(kind, imported(client, "builtins"), "eval", [expression])


def attribute_of(client: Client, expression: str, kind: Type) -> Any:
    client.evaluate(nullable(INT32), f"kept = {expression}\nNone")
    return client.get_attribute(kind, imported(client, "__main__"), "kept")


def imported(client: Client, module: str) -> Any:
    handle = client.import_module(module)
    assert handle is not None, client.log
    return handle


def arguments() -> list[Case]:
    """Each value into locals, args, kwargs, an attribute and a handle."""
    made = []
    for value, expression in ARGUMENTS:
        what = repr(value)[:40]
        check = f"v == {expression} and type(v) is type({expression})"
        made += [
            Case(f"locals {what}", lambda c, v=value, k=check: c.evaluate(BOOLEAN, k, {"v": v}), True),
            Case(f"args {what}", lambda c, v=value, k=check: passed(c, k, [v], None), True),
            Case(f"kwargs {what}", lambda c, v=value, k=check: passed(c, k, None, {"v": v}), True),
            Case(f"setattr {what}", lambda c, v=value, k=check: stored(c, k, v), True),
            Case(f"wrap {what}", lambda c, v=value: wrapped(c, v), True),
        ]
    return made


def checker(client: Client, check: str) -> Any:
    """The module `__main__` with a function that checks its argument `v`."""
    main = imported(client, "__main__")
    client.evaluate(nullable(INT32), f"def check(v): return {check}\nNone")
    return main


def passed(client: Client, check: str, args: list[Any] | None, kwargs: dict[str, Any] | None) -> Any:
    return client.call_method(BOOLEAN, checker(client, check), "check", args, kwargs)


def stored(client: Client, check: str, value: Any) -> Any:
    client.set_attribute(imported(client, "__main__"), "v", value)
    return client.evaluate(BOOLEAN, check)


def wrapped(client: Client, value: Any) -> Any:
    try:
        handle = client.create_object_handle_from_result(value)
    except DotNetError as error:
        return error
    return client.call_method(BOOLEAN, handle, "__eq__", [value])


GROUPS: dict[str, list[Case]] = {
    "numbers": answers(NUMBERS),
    "texts": answers(TEXTS),
    "collections": answers(COLLECTIONS),
}
