"""The table for people, and the JSON for programs."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure
from benchmarks.measurement import Outcome

HEAD = ("figure", "floor in the same run", "floor", "venvd", "ratio", "quartiles", "reach", "stretch", "")
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
LONGEST = 120
"""Characters of a reason in the table; the JSON holds the whole reason."""
RIGHT = {2, 3, 4, 6, 7}


def table(outcomes: Iterable[Outcome]) -> str:
    """The outcomes as a Markdown table that is also readable in a terminal."""
    return markdown([HEAD, *map(_row, outcomes)])


def markdown(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * (width - 1) + ":" if column in RIGHT else "-" * width for column, width in enumerate(widths)]
    return "\n".join(_line(row, widths) for row in [rows[0], rule, *rows[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.rjust(width) if column in RIGHT else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return f"| {' | '.join(cells)} |"


def _row(outcome: Outcome) -> tuple[str, ...]:
    figure = outcome.figure
    goals = bound(figure, figure.reach), bound(figure, figure.stretch)
    if outcome.why:
        return (figure.name, figure.floor, "", "", "", "", *goals, f"not measured: {outcome.why[:LONGEST]}")
    low, high = outcome.spread
    floor, ours = statistics.median(outcome.floor), statistics.median(outcome.ours)
    figures = (number(floor, figure.unit), number(ours, figure.unit), ratio(outcome.ratio))
    return (figure.name, figure.floor, *figures, f"{ratio(low)}–{ratio(high)}", *goals, verdict(outcome))


def verdict(outcome: Outcome) -> str:
    if outcome.figure.reach is None:
        return outcome.figure.note
    if outcome.meets(outcome.figure.stretch):
        word = "stretch"
    else:
        word = "reached" if outcome.meets(outcome.figure.reach) else "missed"
    return f"{word}; {outcome.figure.note}" if outcome.figure.note else word


def bound(figure: Figure, goal: float | None) -> str:
    if goal is None:
        return ""
    return f"{'≤' if figure.better == 'lower' else '≥'} {goal:g}{f' {figure.unit}' if figure.absolute else '×'}"


def ratio(value: float) -> str:
    return f"{value:,.0f}×" if value >= 100 else f"{value:.2f}×" if value >= 0.1 else f"{value:.3f}×"


def number(value: float, unit: str) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def conditions(facts: dict[str, Any]) -> str:
    """The conditions under which the table was measured, as a paragraph."""
    return (
        f"The figures are medians. Ratios are those of single rounds, in which floor and venvd take turns. "
        f"Engine {facts['engine']}, "
        f"{facts['cores']} cores ({facts['cpu']}), Linux {facts['kernel']}, CPython {facts['python']} "
        f"(compiles `1+1` in {facts['compileMicroseconds']} µs), load "
        f"{facts['load'][0]} at the start. Clients, servers and sessions of both sides are pinned to core "
        f"{facts['pinnedTo']}, except in rows that say that they use all cores."
    )


def embed(path: Path, text: str) -> None:
    """Put the table between the marks of a document."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{path} has no marks for the table: {BEGIN} and {END}")
    narrow = re.sub(r"-{3,}", "---", re.sub(r" {2,}", " ", text))
    path.write_text(f"{before}{begin}\n{narrow}\n{end}{after}")


def write(path: Path, facts: dict[str, Any], outcomes: Iterable[Outcome]) -> None:
    """Write everything as JSON, including each round."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": facts, "figures": [outcome.record() for outcome in outcomes]}
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
