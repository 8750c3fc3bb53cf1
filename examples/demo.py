"""The main job, shown: a Python version and two requirements become a running service that aggregates a CSV.

Run by `make demo`. Brings up a controller of its own (temporary home, free port), uses Docker if an engine answers and
local processes if not, and takes everything down again, also after a failure or Ctrl-C. This program needs neither
numpy nor pandas: they live in the venv, and their objects are used from here by handle.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import venvd
from venvd import launch
from venvd_contract.resources import Event

ROWS = 5000
REQUIREMENTS = ["numpy", "pandas"]
REGIONS = ("north", "south", "east", "west")
PRODUCTS = ("apple", "bread", "cheese", "dates")


@dataclass
class Report:
    """Times each step and tells the story."""

    times: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, name: str, title: str) -> Iterator[list[str]]:
        """One step; what the block appends to the list is told beside its time."""
        say(f"{len(self.times) + 1}. {title}")
        words: list[str] = []
        begin = time.perf_counter()
        yield words
        self.times[name] = time.perf_counter() - begin
        say(f"   {self.times[name]:6.2f} s  {'; '.join(words)}")

    def table(self) -> str:
        whole = sum(self.times.values())
        lines = [f"  {name:<12}{seconds:7.2f} s" for name, seconds in self.times.items()]
        return "\n".join([*lines, f"  {'together':<12}{whole:7.2f} s"])


def say(text: str) -> None:
    print(text, flush=True)


def show(event: Event) -> None:
    """The phases of long work as they begin; its own log too, where VENVD_DEMO_LOG is set."""
    if event.kind == "phase":
        say(f"     {event.data}")
    elif event.kind == "log" and os.environ.get("VENVD_DEMO_LOG"):
        say(f"       {event.data}")


def sales() -> list[tuple[str, str, int, float]]:
    """The same few thousand sales every time."""
    dice = random.Random(5)  # noqa: S311 - data, not secrets
    return [
        (dice.choice(REGIONS), dice.choice(PRODUCTS), dice.randint(1, 40), round(dice.uniform(0.5, 12), 2))
        for _ in range(ROWS)
    ]


def as_csv(rows: list[tuple[str, str, int, float]]) -> str:
    lines = [f"{region},{product},{units},{price}" for region, product, units, price in rows]
    return "\n".join(["region,product,units,price", *lines]) + "\n"


def aggregate(b: venvd.Backend, text: str) -> venvd.RemoteObject:
    """Sales by region, computed where pandas is: every name here stands for an object in the session."""
    io, pandas = b.import_module("io"), b.import_module("pandas")
    frame = pandas.read_csv(io.StringIO(text))
    frame["revenue"] = frame["units"] * frame["price"]
    summary = frame.groupby("region").agg(
        sales=("units", "size"), units=("units", "sum"), revenue=("revenue", "sum"), mean_price=("price", "mean")
    )
    ordered: venvd.RemoteObject = summary.sort_values("revenue", ascending=False).round(2)
    return ordered


def check(summary: venvd.RemoteObject, rows: list[tuple[str, str, int, float]]) -> None:
    """The service's figures against plain Python's."""
    units: dict[str, int] = defaultdict(int)
    for region, _, count, _ in rows:
        units[region] += count
    found = summary["units"].to_dict()
    if found != dict(units):
        raise SystemExit(f"pandas says {found}, plain Python {dict(units)}")


def where(b: venvd.Backend, engine: str, home: Path) -> list[str]:
    """What runs the user's code and what serves it."""
    b.exec("import os, platform, socket")
    python, pid, host = b.eval("platform.python_version(), os.getpid(), socket.gethostname()")
    parts = containers(home) if engine == "docker" else processes(pid)
    return [f"user code   CPython {python}, process {pid} on {host}", *parts]


def containers(home: Path) -> list[str]:
    """The containers that carry the label of this home."""
    label = "label=dev.venvd.home=" + (home / "id").read_text(encoding="utf-8").strip()
    command = ["docker", "ps", "--filter", label, "--format", "{{.Names}} of {{.Image}}, {{.Status}}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [f"container   {line}" for line in sorted(listed.splitlines())]


def processes(pid: int) -> list[str]:
    """The processes of the backend: those below the one that both the server and the user's code have above them."""
    parents = {int(path.parent.name): path.read_text() for path in Path("/proc").glob("[0-9]*/stat")}
    above = {child: int(text.rpartition(")")[2].split()[1]) for child, text in parents.items()}
    top = pid
    while above.get(above.get(top, 0), 0) > 1 and command_of(above[top]):
        top = above[top]
    below = {top}
    for _ in range(8):
        below |= {child for child, parent in above.items() if parent in below}
    return [f"process     {found} {command_of(found)}" for found in sorted(below - {top})]


def command_of(pid: int) -> str:
    """What a process of venvd runs; empty for others."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    return next((Path(word).name for word in words[1:] if "venvd" in word), "")


def job(controller: venvd.Controller, home: Path, report: Report) -> None:
    """Runtime, venv, backend, the work itself."""
    status = controller.status()
    say(f"   engine {status.engine}: {status.engineReason}")
    with report.step("runtime", "a runtime: one pinned CPython") as words:
        version = controller.runtimes.ensure(None, show)
        words.append(f"CPython {version}")
    with report.step("venv", f"a venv with {' and '.join(REQUIREMENTS)}") as words:
        controller.venvs.ensure("demo", venvd.VenvSpec(python=version, requirements=REQUIREMENTS), show)
        installed = {package.name: package.version for package in controller.venvs.packages("demo")}
        words.append(", ".join(f"{name} {installed[name]}" for name in REQUIREMENTS))
    with report.step("backend", "an HTTP backend from it") as words:
        started = controller.backends.start("http", venv="demo", name="demo")
        controller.operations.wait(started.operation, show)
        running = controller.backends.get("demo")
        words.append(str(running.url))
    with venvd.connect(running.url or "", running.token) as b:
        work(b, report)
        say("\nWhat ran where")
        for line in where(b, status.engine, home):
            say(f"  {line}")


def work(b: venvd.Backend, report: Report) -> None:
    rows = sales()
    text = as_csv(rows)
    with report.step("first call", "a session, pandas imported") as words:
        words.append("pandas " + str(b.import_module("pandas").__version__))
    with report.step("aggregate", f"a CSV of {ROWS:,} rows, grouped by region through handles") as words:
        summary = aggregate(b, text)
        table = str(summary)
        words.append(f"{len(text) / 1000:.0f} kB sent, {len(table)} bytes of table back")
    check(summary, rows)
    say("\n" + "\n".join("  " + line for line in table.splitlines()) + "\n\n  (plain Python counts the same units)")


def take_down(started: launch.Started) -> None:
    """Everything this run made: backend, venv, runtime, controller."""
    with contextlib.suppress(venvd.VenvdError), venvd.Controller(started.url, started.token) as controller:
        for backend in controller.backends.list():
            controller.backends.delete(backend.name)
        wait_until_gone(controller)
        for venv in controller.venvs.list():
            controller.venvs.delete(venv.name)
        controller.prune(everything=True)  # no other home would ever find what this one leaves
    started.stop()


def wait_until_gone(controller: venvd.Controller, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while controller.backends.list() and time.monotonic() < end:
        time.sleep(0.1)


def main() -> int:
    say("venvd: a Python version and a requirements list in, a running Python service out\n")
    home = Path(tempfile.mkdtemp(prefix="venvd-demo-"))
    report = Report()
    started = None
    try:
        with report.step("controller", "a controller of our own") as words:
            started = launch.start(home, settings={"VENVD_RUN_DIR": str(home / "run")})
            words.append(started.url)
        with venvd.Controller(started.url, started.token) as controller:
            job(controller, home, report)
        say("\nTimes\n" + report.table())
    except venvd.VenvdError as error:
        say(f"\nthe demo failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nstopped")
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C must not leave anything behind
        say("\ntaking everything down …")
        if started is not None:
            take_down(started)
        shutil.rmtree(home, ignore_errors=True)
    say("done: nothing is left running")
    return 0


if __name__ == "__main__":
    sys.exit(main())
