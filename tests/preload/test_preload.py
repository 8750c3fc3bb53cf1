"""What a venv preloads is there in every session, shared, on both engines."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from harness.callers import CALLERS, Caller
from harness.stack import Running, Stack
from harness.values import IMPORTS, ROWS, Row

from venvd_contract.errors import VenvdError

PRELOAD = ("numpy", "pandas", "absent_module")
LOADED = "import sys\n[name in sys.modules for name in ('numpy', 'pandas')]"


@pytest.fixture(scope="module")
def running(stack: Stack) -> Iterator[Running]:
    made = stack.start("pipe", preload=PRELOAD)
    yield made
    stack.stop(made)


@pytest.fixture(scope="module")
def call(running: Running) -> Iterator[Caller]:
    made = CALLERS["pipe"](running.url, running.token)
    yield made
    made.close()


@pytest.fixture
def sessions(call: Caller) -> Iterator[list[str]]:
    made = [call("session.create", {})["id"] for _ in range(4)]
    yield ["default", *made]
    for name in made:
        call("session.delete", {"id": name})


def value(call: Caller, code: str, session: str) -> object:
    return call("eval", {"expression": code}, session=session)["value"]


def test_every_session_finds_the_modules(call: Caller, sessions: list[str]) -> None:
    """Also the default one, which is there before anybody asks."""
    assert all(value(call, LOADED, session) == [True, True] for session in sessions)


def test_numpy_draws_other_numbers_in_each(call: Caller, sessions: list[str]) -> None:
    """The global generator, a new one, and Python's own."""
    code = (
        "import random, numpy\n"
        "[float(numpy.random.rand()), float(numpy.random.default_rng().random()), random.random()]"
    )
    drawn = [value(call, code, session) for session in sessions]
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == len(sessions)


def test_what_was_preloaded_computes(call: Caller, sessions: list[str]) -> None:
    """Products of large matrices, data frames, threads and child processes work in forks."""
    code = """
import concurrent.futures, subprocess, sys, numpy, pandas
ones = numpy.ones((600, 600))
products = list(concurrent.futures.ThreadPoolExecutor(4).map(lambda _: float((ones @ ones).sum()), range(4)))
total = int(pandas.DataFrame({"k": [1, 1, 2], "v": [1, 2, 3]}).groupby("k").v.sum().max())
script = "import numpy; print(numpy.ones(3).sum())"
child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
[products == [216_000_000.0] * 4, total, child.stdout.strip()]
"""
    for session in sessions:
        assert value(call, code, session) == [True, 3, "3.0"]


def test_variables_for_the_start_of_libraries_count(call: Caller) -> None:
    """A session that names them is an interpreter of its own, which finds nothing imported."""
    made = call("session.create", {"env": {"OPENBLAS_NUM_THREADS": "2"}})
    try:
        assert value(call, LOADED, made["id"]) == [False, False]
        assert value(call, "import numpy\nint(numpy.ones(3).sum())", made["id"]) == 3
    finally:
        call("session.delete", {"id": made["id"]})


def test_the_log_names_what_could_not_be_imported(stack: Stack, running: Running, call: Caller) -> None:
    """The backend runs all the same."""
    assert call("ping") == {"status": "ok"}
    lines = [line.text for line in stack.engine.logs(running.record, None, follow=False)]
    (told,) = [line for line in lines if '"zygote"' in line]
    assert "absent_module" in told
    assert '"state":"ready"' in told


def test_memory_is_shared(call: Caller, sessions: list[str]) -> None:
    """The pages that an idle session has alone are less than a quarter of an interpreter's that imports the same.

    What one session more costs as a whole, the benchmarks measure.
    """
    code = "sum(int(line.split()[1]) for line in open('/proc/self/smaps_rollup') if line.startswith('Private_'))"
    fresh = f"""
import subprocess, sys
script = "import numpy, pandas\\nprint({code})"
int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
"""
    one = value(call, f"import gc\ngc.collect()\n{code}", sessions[1])
    another = value(call, fresh, "default")
    assert isinstance(one, int)
    assert isinstance(another, int)
    assert one * 4 < another, (one, another)


def test_a_session_that_needs_more_is_told(call: Caller, sessions: list[str]) -> None:
    """A limit on memory counts from what came with the fork."""
    made = call("session.create", {"limits": {"memoryBytes": 128 << 20}})
    try:
        assert value(call, "import numpy\nheld = numpy.ones(8 << 20)\nheld.nbytes", made["id"]) == 64 << 20
        with pytest.raises(VenvdError, match="memoryBytes"):
            call("eval", {"expression": "numpy.ones(40 << 20)"}, session=made["id"])
        assert value(call, "held.nbytes", made["id"]) == 64 << 20
    finally:
        call("session.delete", {"id": made["id"]})


@pytest.mark.parametrize("row", [row for row in ROWS if row.package], ids=lambda row: row.expression)
def test_values_of_numpy_and_pandas(call: Caller, row: Row) -> None:
    """The values of both packages have the forms of docs/values.md."""
    for mode, expected in (("plain", row.plain), ("tagged", row.tagged)):
        result = call("eval", {"expression": f"{IMPORTS}\n{row.expression}"}, values=mode)
        assert result.get("isHandle") is True if expected is None else result == {"value": json.loads(expected)}


def test_a_series_as_a_dictionary(call: Caller) -> None:
    """What pandas makes of a series and of a frame is natural JSON: its keys are numpy's integers."""
    assert value(call, "import pandas\npandas.Series([1.5, None], index=[1, 2]).to_dict()", "default") == {
        "1": 1.5,
        "2": None,
    }
    assert value(call, "pandas.DataFrame({'a': [1]}).to_dict()", "default") == {"a": {"0": 1}}
