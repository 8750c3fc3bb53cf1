"""How a row comes to be: batches of floor and ours by turns, and the ratio of each pair."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks import machine
from benchmarks.asking import Asked
from benchmarks.figure import Figure, UnmeasurableError
from benchmarks.ground import Ground


@dataclass(frozen=True)
class Outcome:
    """What one row came to: the figures of each round, in pairs; or why there are none."""

    figure: Figure
    floor: Sequence[float] = ()
    ours: Sequence[float] = ()
    why: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        return [ours / floor for floor, ours in zip(self.floor, self.ours, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The first and the third quartile of the rounds' ratios."""
        if len(self.ratios) < 2:
            return self.ratios[0], self.ratios[0]
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high

    @property
    def best(self) -> float:
        """The ratio of both sides' best rounds: what other work on the machine disturbs least."""
        choose = min if self.figure.better == "lower" else max
        return choose(self.ours) / choose(self.floor)

    def meets(self, wanted: float | None) -> bool:
        if wanted is None or self.why:
            return False
        return self.ratio <= wanted if self.figure.better == "lower" else self.ratio >= wanted

    def record(self) -> dict[str, Any]:
        """The row as JSON."""
        figure = self.figure
        found: dict[str, Any] = {
            "name": figure.name, "group": figure.group, "floorIs": figure.floor, "unit": figure.unit,
            "better": figure.better, "reach": figure.reach, "stretch": figure.stretch, "pinned": figure.pinned,
            "batch": figure.batch, "note": figure.note,
        }  # fmt: skip
        if self.why:
            return found | {"unmeasured": self.why}
        low, high = self.spread
        return found | {
            "floor": statistics.median(self.floor), "ours": statistics.median(self.ours), "ratio": self.ratio,
            "ratioQuartiles": [low, high], "rounds": len(self.ratios), "reached": self.meets(figure.reach),
            "stretchReached": self.meets(figure.stretch), "floorRounds": [*self.floor], "oursRounds": [*self.ours],
        }  # fmt: skip


def measure(figure: Figure, ground: Ground, rounds: int | None = None) -> Outcome:
    """Measure one row; what cannot be measured says why."""
    try:
        with ExitStack() as stack:
            return _measured(figure, ground, figure.rounds if rounds is None else rounds, stack)
    except UnmeasurableError as error:
        return Outcome(figure, why=str(error))


def _measured(figure: Figure, ground: Ground, rounds: int, stack: ExitStack) -> Outcome:
    cores = ground.cores if not figure.pinned else {max(ground.cores)}
    asked = []
    addresses = [ground.address(side.server) for side in figure.sides]
    for side, address in zip(figure.sides, addresses, strict=True):
        machine.place([pid for pid in (address.server, address.worker) if pid], cores)
        asked.append(stack.enter_context(Asked(side, address, cores)))
    for each in asked:
        each.probe(figure.batch)  # what is slow once is over
    found: list[list[float]] = [[], []]
    for turn in range(rounds):
        for index in (0, 1) if turn % 2 == 0 else (1, 0):
            found[index].append(asked[index].probe(figure.batch))
    return Outcome(figure, *found)
