"""Measure the figures and print the table: `python -m benchmarks`."""

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
from benchmarks.catalogue import FIGURES, ON_KUBERNETES
from benchmarks.figure import Figure
from benchmarks.measurement import Outcome, measure
from benchmarks.testbed import Testbed
from venvd_contract.errors import VenvdError

ROOT = Path(__file__).resolve().parent.parent
QUICK = 6
"""Rounds of `--quick`."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Figures of venvd, each beside its floor.")
    parser.add_argument(
        "--only", metavar="PATTERN", action="append", help="only rows whose name matches (with * and ?)"
    )
    parser.add_argument("--quick", action="store_true", help=f"at most {QUICK} rounds per row")
    engines = ("auto", "docker", "local", "kubernetes")
    parser.add_argument("--engine", choices=engines, default=os.environ.get("VENVD_ENGINE", "auto"))
    parser.add_argument("--json", metavar="PATH", type=Path, default=ROOT / ".build" / "bench.json")
    parser.add_argument(
        "--into", metavar="PATH", type=Path, help="also put the table between the marks in this document"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the rows and exit")
    return parser.parse_args()


def select_figures(engine: str, patterns: list[str] | None) -> list[Figure]:
    """The rows of an engine whose name contains one of the patterns; all of them if there are no patterns."""
    figures = ON_KUBERNETES if engine == "kubernetes" else FIGURES
    if not patterns:
        return list(figures)
    globs = [f"*{pattern.lower()}*" for pattern in patterns]
    return [figure for figure in figures if any(fnmatch.fnmatch(figure.name.lower(), glob) for glob in globs)]


def choose_engine(requested: str) -> str:
    """The requested engine; for `auto`, docker if it answers and local otherwise."""
    if requested != "auto":
        return requested
    try:
        version = subprocess.run(["docker", "version"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "local"
    return "docker" if version.returncode == 0 else "local"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(figures: list[Figure], testbed: Testbed, *, quick: bool) -> list[Outcome]:
    outcomes = []
    for number, figure in enumerate(figures, 1):
        say(f"[{number}/{len(figures)}] {figure.name}")
        rounds = min(QUICK, figure.rounds) if quick else None
        outcomes.append(measure(figure, testbed, rounds))
        if outcomes[-1].why:
            say(f"    not measured: {outcomes[-1].why}")
    return outcomes


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exit through the blocks below, which stop the backends
    arguments = parse_arguments()
    figures = select_figures(arguments.engine, arguments.only)
    if arguments.list:
        print("\n".join(figure.name for figure in figures))
        return
    if not figures:
        sys.exit(f"no row has {' or '.join(arguments.only)} in its name; --list prints all names")
    engine = choose_engine(arguments.engine)
    facts = {"when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "engine": engine, **machine.facts()}
    say(f"engine {engine}, {facts['cores']} cores ({facts['cpu']}), Linux {facts['kernel']}, load {facts['load']}")
    try:
        with Testbed(engine) as testbed:
            facts["pinnedTo"] = max(testbed.cores)
            outcomes = run(figures, testbed, quick=arguments.quick)
    except VenvdError as error:
        sys.exit(f"the engine {engine} cannot be used: {error.message}")
    text = f"{report.table(outcomes)}\n\n{report.conditions(facts)}"
    print(text)
    if arguments.into is not None:
        report.embed(arguments.into, text)
    report.write(arguments.json, facts, outcomes)
    say(f"every round: {arguments.json}")


if __name__ == "__main__":
    main()
