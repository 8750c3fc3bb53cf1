"""Fuzzing of a parser with bytes: how inputs are made, kept and replayed.

A property is a test that takes `data` and is decorated with `fuzz(strategy)`. Everything that it does follows from
these bytes, also where it cuts them, so that a file with them is the whole test case. The files in
`tests/fuzz/seeds/NAME/`, where NAME is the test's without `test_`, are replayed first in each run.

`make test` tries the same inputs in each run. With `VENVD_FUZZ_EXAMPLES` a run tries so many others for each property,
and writes the smallest input that fails beside the seeds, as `found`.
"""

from __future__ import annotations

import json
import os
import random
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

SEEDS = Path(__file__).resolve().parents[1] / "fuzz" / "seeds"
FOUND = "found"
LONG = int(os.environ.get("VENVD_FUZZ_EXAMPLES", "0"))
BOUNDED = 100
"""Inputs of a property in `make test`."""

Property = Callable[[bytes], None]


def fuzz(strategy: st.SearchStrategy[bytes], *, share: float = 1.0) -> Callable[[Property], Callable[[], None]]:
    """Make a property a test of bytes that `strategy` draws.

    Args:
        strategy: draws the inputs.
        share: part of the usual number of inputs, for a property that takes longer.
    """

    def decorate(check: Property) -> Callable[[], None]:
        directory = SEEDS / check.__name__.removeprefix("test_")

        @wraps(check)
        def keep_failing(data: bytes) -> None:
            try:
                check(data)
            except BaseException:
                if LONG:
                    directory.mkdir(parents=True, exist_ok=True)
                    (directory / FOUND).write_bytes(data)
                raise

        test: Any = given(data=strategy)(keep_failing)
        for seed in sorted(directory.glob("*")):
            test = example(data=seed.read_bytes())(test)
        decorated: Callable[[], None] = settings(
            max_examples=max(1, int((LONG or BOUNDED) * share)),
            derandomize=not LONG,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )(test)
        return decorated

    return decorate


def cuts(data: bytes, times: int = 3) -> Iterator[list[bytes]]:
    """Yield the same bytes in one piece, by line, by byte, and cut `times` at places that follow from the bytes."""
    yield [data] if data else []
    yield data.splitlines(keepends=True)
    if len(data) <= 256:
        yield [data[at : at + 1] for at in range(len(data))]
    chance = random.Random(zlib.crc32(data))  # noqa: S311 — the same places in each run
    for _ in range(times):
        places = sorted(chance.choices(range(len(data) + 1), k=chance.randint(1, 6)))
        yield [
            piece for start, end in zip([0, *places], [*places, len(data)], strict=True) if (piece := data[start:end])
        ]


# ---- inputs ----------------------------------------------------------------------------------------------------

NUMBERS = (
    b"0", b"-0", b"1", b"-1", b"1.5", b"1e3", b"1e400", b"-1e-400", b"9223372036854775807", b"9223372036854775808",
    b"18446744073709551616", b"NaN", b"Infinity", b"01", b"1.", b"-", b"+1", b"0x1", b"1_0", b"9" * 400, b"9" * 5000,
)  # fmt: skip
TEXTS = (
    b'""', b'"a"', b'"\\u0000"', b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\\q"', b'"\x01"', b'"\xff"', b'"\xed\xa0\x80"',
    b'"\xc3\xa9"', b'"a', b"'a'", b'"' + b"x" * 300 + b'"', b'"\\', b'"\xe2\x80\xa8"',
)  # fmt: skip
OTHERS = (b"null", b"true", b"false", b"tru", b"{}", b"[]", b"{", b"[", b"}", b"", b" ", b"[" * 2000, b'{"a":' * 2000)

scalars = st.sampled_from([*NUMBERS, *TEXTS, *OTHERS]) | st.binary(max_size=12)
json_texts: st.SearchStrategy[bytes] = st.recursive(
    scalars
    | st.integers().map(lambda number: b"%d" % number)
    | st.text(max_size=8).map(lambda t: json.dumps(t).encode()),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda parts: b"[" + b",".join(parts) + b"]")
        | st.lists(st.tuples(st.sampled_from(TEXTS[:3]), inner), max_size=3).map(
            lambda pairs: b"{" + b",".join(name + b":" + value for name, value in pairs) + b"}"
        )
    ),
    max_leaves=6,
)
"""JSON, valid and not, with what parsers disagree about."""


def objects(fields: dict[str, st.SearchStrategy[bytes]]) -> st.SearchStrategy[bytes]:
    """Objects with some of these fields, in any order and perhaps twice; now and then a value of another kind."""
    pair = st.one_of([st.tuples(st.just(name), value | json_texts) for name, value in fields.items()])
    return st.lists(pair, max_size=len(fields) + 2).map(
        lambda pairs: b"{" + b",".join(b'"%b":%b' % (name.encode(), value) for name, value in pairs) + b"}"
    )


def choose(*values: Any) -> st.SearchStrategy[bytes]:
    """One of these values as JSON."""
    return st.sampled_from([json.dumps(value).encode() for value in values])


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes], chance: int = 2) -> bytes:
    """Draw bytes, of which one in `chance` has some bytes cut, changed, doubled or added."""
    data = draw(whole)
    if draw(st.integers(1, chance)) > 1:
        return data
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.integers(0, 8))
        new = draw(
            st.sampled_from([b"", b"\x00", b"\n", b"\r\n", b'"', b"\xff", data[at : at + 40]]) | st.binary(max_size=8)
        )
        data = data[:at] + new + data[at + size :]
    return data


def streams(line: st.SearchStrategy[bytes], most: int = 5) -> st.SearchStrategy[bytes]:
    """Several lines, each with an end of some kind, and bytes between them."""
    end = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"", b"\n\n", b" \n", b"\r", b"\xef\xbb\xbf", b"abc"])
    return st.lists(st.tuples(line, end).map(b"".join), max_size=most).map(b"".join)


def outcome(work: Callable[[], Any], *errors: type[Exception]) -> tuple[str, Any]:
    """Return what `work` returned, or the one of the documented `errors` that it raised; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return "value", work()
        except errors as error:
            return type(error).__name__, str(error)
