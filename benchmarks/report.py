"""The table for people, and the JSON for programs."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure
from benchmarks.measuring import Outcome

HEAD = ("figure", "floor in the same run", "floor", "ours", "ratio", "quartiles", "reach", "stretch", "")
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
LONGEST = 120
"""Characters of a reason in the table; the JSON has all of it."""
RIGHT = {2, 3, 4, 6, 7}


def table(outcomes: Iterable[Outcome]) -> str:
    """A Markdown table, which a terminal shows as well."""
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
    wanted = bound(figure, figure.reach), bound(figure, figure.stretch)
    if outcome.why:
        return (figure.name, figure.floor, "", "", "", "", *wanted, f"not measured: {outcome.why[:LONGEST]}")
    low, high = outcome.spread
    floor, ours = statistics.median(outcome.floor), statistics.median(outcome.ours)
    figures = (number(floor, figure.unit), number(ours, figure.unit), ratio(outcome.ratio))
    return (figure.name, figure.floor, *figures, f"{ratio(low)}–{ratio(high)}", *wanted, verdict(outcome))


def verdict(outcome: Outcome) -> str:
    if outcome.figure.reach is None:
        return outcome.figure.note
    said = (
        "stretch"
        if outcome.meets(outcome.figure.stretch)
        else "reached"
        if outcome.meets(outcome.figure.reach)
        else "missed"
    )
    return f"{said}; {outcome.figure.note}" if outcome.figure.note else said


def bound(figure: Figure, wanted: float | None) -> str:
    if wanted is None:
        return ""
    return f"{'≤' if figure.better == 'lower' else '≥'} {wanted:g}×"


def ratio(value: float) -> str:
    return f"{value:,.0f}×" if value >= 100 else f"{value:.2f}×" if value >= 0.1 else f"{value:.3f}×"


def number(value: float, unit: str) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def conditions(facts: dict[str, Any]) -> str:
    """Under which the table came to be."""
    return (
        f"Medians; ratios are those of single rounds, floor and ours by turns. Engine {facts['engine']}, "
        f"{facts['cores']} cores ({facts['cpu']}), Linux {facts['kernel']}, CPython {facts['python']} "
        f"(compiles `1+1` in {facts['compileMicroseconds']} µs), load "
        f"{facts['load'][0]} at the start. Clients, servers and sessions of both sides are pinned to core "
        f"{facts['pinnedTo']}, but for rows that say that they use all cores."
    )


def embed(path: Path, text: str) -> None:
    """Put the table where a document has a place for it."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{path} has no place for the table: {BEGIN} and {END}")
    narrow = re.sub(r"-{3,}", "---", re.sub(r" {2,}", " ", text))
    path.write_text(f"{before}{begin}\n{narrow}\n{end}{after}")


def write(path: Path, facts: dict[str, Any], outcomes: Iterable[Outcome]) -> None:
    """Everything as JSON, each round included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {"machine": facts, "figures": [outcome.record() for outcome in outcomes]}
    path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n")
