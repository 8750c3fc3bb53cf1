"""`python -m benchmarks`: measures the figures and prints the table."""

from __future__ import annotations

import argparse
import datetime as dt
import fnmatch
import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks import machine, report
from benchmarks.catalogue import FIGURES
from benchmarks.figure import Figure
from benchmarks.ground import Ground
from benchmarks.measuring import Outcome, measure
from venvd_contract.errors import VenvdError

ROOT = Path(__file__).resolve().parent.parent
QUICK = 6
"""Rounds of `--quick`."""


def words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Figures of venvd, each beside its floor.")
    parser.add_argument("--only", metavar="PATTERN", action="append", help="rows whose name matches (* and ? count)")
    parser.add_argument("--quick", action="store_true", help=f"at most {QUICK} rounds a row")
    parser.add_argument("--engine", choices=("auto", "docker", "local"), default=os.environ.get("VENVD_ENGINE", "auto"))
    parser.add_argument("--json", metavar="PATH", type=Path, default=ROOT / ".build" / "bench.json")
    parser.add_argument("--into", metavar="PATH", type=Path, help="put the table into a document that has its marks")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    return parser.parse_args()


def chosen(patterns: list[str] | None) -> list[Figure]:
    """The rows whose name has one of the patterns in it; all of them where none is given."""
    if not patterns:
        return list(FIGURES)
    wanted = [f"*{pattern.lower()}*" for pattern in patterns]
    return [each for each in FIGURES if any(fnmatch.fnmatch(each.name.lower(), pattern) for pattern in wanted)]


def engine_of(asked: str) -> str:
    """The engine asked for; with `auto`, docker where it answers."""
    if asked != "auto":
        return asked
    try:
        answer = subprocess.run(["docker", "version"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "local"
    return "docker" if answer.returncode == 0 else "local"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(figures: list[Figure], ground: Ground, *, quick: bool) -> list[Outcome]:
    outcomes = []
    for number, figure in enumerate(figures, 1):
        say(f"[{number}/{len(figures)}] {figure.name}")
        rounds = min(QUICK, figure.rounds) if quick else None
        outcomes.append(measure(figure, ground, rounds))
        if outcomes[-1].why:
            say(f"    not measured: {outcomes[-1].why}")
    return outcomes


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whoever ends a run, its backends end with it
    asked = words()
    figures = chosen(asked.only)
    if asked.list:
        print("\n".join(figure.name for figure in figures))
        return
    if not figures:
        sys.exit(f"no row has {' or '.join(asked.only)} in its name; --list names them")
    engine = engine_of(asked.engine)
    facts = {"when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "engine": engine, **machine.facts()}
    say(f"engine {engine}, {facts['cores']} cores ({facts['cpu']}), Linux {facts['kernel']}, load {facts['load']}")
    try:
        with Ground(engine) as ground:
            facts["pinnedTo"] = max(ground.cores)
            outcomes = run(figures, ground, quick=asked.quick)
    except VenvdError as error:
        sys.exit(f"the engine {engine} cannot be used: {error.message}")
    text = f"{report.table(outcomes)}\n\n{report.conditions(facts)}"
    print(text)
    if asked.into is not None:
        report.embed(asked.into, text)
    report.write(asked.json, facts, outcomes)
    say(f"every round: {asked.json}")


if __name__ == "__main__":
    main()
