"""A few of the benchmarks' rows on a machine that does other things too: only what has become several times slower than
it should be, beside a floor measured at the same moments, is a failure.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from benchmarks.catalogue import FIGURES
from benchmarks.figure import Figure
from benchmarks.ground import Ground
from benchmarks.measuring import measure

pytestmark = pytest.mark.long

GROSS = 8
"""How many times worse than what a row should reach."""
ROUNDS = 5
CHECKED = (
    "pipe eval, attached, SDK sync",
    "pipe eval, through the server",
    "HTTP eval",
    "gRPC eval, Session stream",
    "SDK over HTTP, sync",
)


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with Ground("local") as made:
        yield made


@pytest.mark.parametrize("figure", [each for each in FIGURES if each.name in CHECKED], ids=lambda each: each.name)
def test_a_figure_is_not_far_from_its_floor(figure: Figure, ground: Ground, record_property: pytest.Any) -> None:
    """The best of a few rounds is within eight times the ratio that the row should reach."""
    outcome = measure(figure, ground, ROUNDS)
    assert not outcome.why
    assert figure.reach is not None
    record_property("figure", f"{figure.name}: {outcome.best:.2f} times {figure.floor} (reach {figure.reach:g})")
    assert outcome.best <= GROSS * figure.reach


def test_the_rows_that_are_checked_are_there() -> None:
    """A row that is renamed is not left out in silence."""
    assert set(CHECKED) <= {each.name for each in FIGURES}
