"""A few rows of the benchmarks on a busy machine.

Only a gross loss fails: a figure several times worse than its goal, beside a floor measured at the same moments.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from benchmarks.catalogue import FIGURES
from benchmarks.figure import Figure
from benchmarks.measurement import measure
from benchmarks.testbed import Testbed as Bed

pytestmark = pytest.mark.long

GROSS = 8
"""A figure may be this many times worse than its goal."""
ROUNDS = 5
CHECKED = (
    "pipe eval, attached, SDK sync",
    "pipe eval, through the server",
    "HTTP eval",
    "gRPC eval, Session stream",
    "SDK over HTTP, sync",
)


@pytest.fixture(scope="module")
def testbed() -> Iterator[Bed]:
    with Bed("local") as local:
        yield local


@pytest.mark.parametrize("figure", [row for row in FIGURES if row.name in CHECKED], ids=lambda row: row.name)
def test_figure_is_near_its_goal(figure: Figure, testbed: Bed, record_property: pytest.Any) -> None:
    """The best of a few rounds is within eight times the ratio that is the goal of the row."""
    outcome = measure(figure, testbed, ROUNDS)
    assert not outcome.why
    assert figure.reach is not None
    record_property("figure", f"{figure.name}: {outcome.best:.2f} times {figure.floor} (goal {figure.reach:g})")
    assert outcome.best <= GROSS * figure.reach


def test_checked_rows_exist() -> None:
    """Every row that is checked is in the catalogue, so that a renamed row does not go unchecked."""
    assert set(CHECKED) <= {row.name for row in FIGURES}
