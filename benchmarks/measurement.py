"""Measure a row: batches of floor and venvd in turns, and the ratio of each pair."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks import machine
from benchmarks.client_process import ClientProcess
from benchmarks.figure import Figure, UnmeasurableError
from benchmarks.testbed import Testbed


@dataclass(frozen=True)
class Outcome:
    """The result of one row: the figures of each round in pairs, or the reason why there are none."""

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
        """First and third quartile of the rounds' ratios."""
        if len(self.ratios) < 2:
            return self.ratios[0], self.ratios[0]
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high

    @property
    def best(self) -> float:
        """The ratio of both sides' best rounds, which other work on the machine disturbs least."""
        choose = min if self.figure.better == "lower" else max
        return choose(self.ours) / choose(self.floor)

    def meets(self, goal: float | None) -> bool:
        if goal is None or self.why:
            return False
        value = statistics.median(self.ours) if self.figure.absolute else self.ratio
        return value <= goal if self.figure.better == "lower" else value >= goal

    def record(self) -> dict[str, Any]:
        """The row as JSON."""
        figure = self.figure
        row: dict[str, Any] = {
            "name": figure.name, "group": figure.group, "floorIs": figure.floor, "unit": figure.unit,
            "better": figure.better, "reach": figure.reach, "stretch": figure.stretch,
            "goalsAre": "absolute" if figure.absolute else "ratios", "pinned": figure.pinned,
            "batch": figure.batch, "note": figure.note,
        }  # fmt: skip
        if self.why:
            return row | {"unmeasured": self.why}
        low, high = self.spread
        return row | {
            "floor": statistics.median(self.floor), "ours": statistics.median(self.ours), "ratio": self.ratio,
            "ratioQuartiles": [low, high], "rounds": len(self.ratios), "reached": self.meets(figure.reach),
            "stretchReached": self.meets(figure.stretch), "floorRounds": [*self.floor], "oursRounds": [*self.ours],
        }  # fmt: skip


def measure(figure: Figure, testbed: Testbed, rounds: int | None = None) -> Outcome:
    """Measure one row; the outcome holds the reason if that fails."""
    try:
        with ExitStack() as stack:
            return _run_rounds(figure, testbed, figure.rounds if rounds is None else rounds, stack)
    except UnmeasurableError as error:
        return Outcome(figure, why=str(error))


def _run_rounds(figure: Figure, testbed: Testbed, rounds: int, stack: ExitStack) -> Outcome:
    servers = {max(testbed.cores)} if figure.pinned or figure.apart else testbed.cores
    callers = {min(testbed.cores)} if figure.apart else servers
    clients = []
    addresses = [testbed.address(side.server) for side in figure.sides]
    for side, address in zip(figure.sides, addresses, strict=True):
        machine.pin([pid for pid in (address.server, address.worker) if pid], servers)
        clients.append(stack.enter_context(ClientProcess(side, address, callers)))
    for client in clients:
        client.probe(figure.batch)  # warm up
    figures: list[list[float]] = [[], []]
    for turn in range(rounds):
        for index in (0, 1) if turn % 2 == 0 else (1, 0):
            figures[index].append(clients[index].probe(figure.batch))
    return Outcome(figure, *figures)
