"""A demonstration: a Python version and two requirements become a running service, which aggregates a CSV.

`make demo` runs it. It starts a controller of its own (temporary home, free port) and uses Docker if an engine answers,
local processes otherwise. At the end it stops and removes everything, also after a failure or Ctrl-C. This program
needs neither numpy nor pandas: they are in the venv, and the program uses their objects by handle.
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
from venvd import _controller_process
from venvd_contract.resources import Event

ROWS = 5000
REQUIREMENTS = ["numpy", "pandas"]
REGIONS = ("north", "south", "east", "west")
PRODUCTS = ("apple", "bread", "cheese", "dates")


@dataclass
class Report:
    """Prints each step with its time."""

    times: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, name: str, title: str) -> Iterator[list[str]]:
        """Time one step. The block appends remarks to the list, which appear beside the time."""
        say(f"{len(self.times) + 1}. {title}")
        remarks: list[str] = []
        start = time.perf_counter()
        yield remarks
        self.times[name] = time.perf_counter() - start
        say(f"   {self.times[name]:6.2f} s  {'; '.join(remarks)}")

    def table(self) -> str:
        total = sum(self.times.values())
        lines = [f"  {name:<12}{seconds:7.2f} s" for name, seconds in self.times.items()]
        return "\n".join([*lines, f"  {'total':<12}{total:7.2f} s"])


def say(text: str) -> None:
    print(text, flush=True)


def show(event: Event) -> None:
    """Print the phases of an operation, and also its log if VENVD_DEMO_LOG is set."""
    if event.kind == "phase":
        say(f"     {event.data}")
    elif event.kind == "log" and os.environ.get("VENVD_DEMO_LOG"):
        say(f"       {event.data}")


def generate_sales() -> list[tuple[str, str, int, float]]:
    """The same few thousand sales on each run."""
    dice = random.Random(5)  # noqa: S311 - data, not secrets
    return [
        (dice.choice(REGIONS), dice.choice(PRODUCTS), dice.randint(1, 40), round(dice.uniform(0.5, 12), 2))
        for _ in range(ROWS)
    ]


def format_csv(rows: list[tuple[str, str, int, float]]) -> str:
    lines = [f"{region},{product},{units},{price}" for region, product, units, price in rows]
    return "\n".join(["region,product,units,price", *lines]) + "\n"


def aggregate(b: venvd.Backend, text: str) -> venvd.RemoteObject:
    """Sales by region, computed in the session. Every local name stands for an object there."""
    io, pandas = b.import_module("io"), b.import_module("pandas")
    frame = pandas.read_csv(io.StringIO(text))
    frame["revenue"] = frame["units"] * frame["price"]
    summary = frame.groupby("region").agg(
        sales=("units", "size"), units=("units", "sum"), revenue=("revenue", "sum"), mean_price=("price", "mean")
    )
    ordered: venvd.RemoteObject = summary.sort_values("revenue", ascending=False).round(2)
    return ordered


def check(summary: venvd.RemoteObject, rows: list[tuple[str, str, int, float]]) -> None:
    """Compare the figures of the service with those of plain Python."""
    units: dict[str, int] = defaultdict(int)
    for region, _, count, _ in rows:
        units[region] += count
    result = summary["units"].to_dict()
    if result != dict(units):
        raise SystemExit(f"pandas counts {result}, plain Python counts {dict(units)}")


def describe(b: venvd.Backend, engine: str, home: Path) -> list[str]:
    """The containers or processes of the backend and of the user's code."""
    b.exec("import os, platform, socket")
    python, pid, host = b.eval("platform.python_version(), os.getpid(), socket.gethostname()")
    parts = list_containers(home) if engine == "docker" else list_processes(pid)
    return [f"user code   CPython {python}, process {pid} on {host}", *parts]


def list_containers(home: Path) -> list[str]:
    """The containers with the label of this home."""
    label = "label=dev.venvd.home=" + (home / "id").read_text(encoding="utf-8").strip()
    command = ["docker", "ps", "--filter", label, "--format", "{{.Names}} of {{.Image}}, {{.Status}}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [f"container   {line}" for line in sorted(listed.splitlines())]


def list_processes(pid: int) -> list[str]:
    """The processes of the backend: the descendants of its supervisor, which is the topmost process of venvd."""
    stats = {int(path.parent.name): path.read_text() for path in Path("/proc").glob("[0-9]*/stat")}
    parents = {child: int(text.rpartition(")")[2].split()[1]) for child, text in stats.items()}
    supervisor = pid
    while parents.get(parents.get(supervisor, 0), 0) > 1 and find_program(parents[supervisor]):
        supervisor = parents[supervisor]
    tree = {supervisor}
    for _ in range(8):
        tree |= {child for child, parent in parents.items() if parent in tree}
    return [f"process     {member} {find_program(member)}" for member in sorted(tree - {supervisor})]


def find_program(pid: int) -> str:
    """The program that a process of venvd runs; empty for other processes."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    return next((Path(word).name for word in words[1:] if "venvd" in word), "")


def run_job(controller: venvd.Controller, home: Path, report: Report) -> None:
    """Make a runtime, a venv and a backend, and use it."""
    status = controller.status()
    say(f"   engine {status.engine}: {status.engineReason}")
    with report.step("runtime", "a runtime: one pinned CPython") as remarks:
        version = controller.runtimes.ensure(None, show)
        remarks.append(f"CPython {version}")
    with report.step("venv", f"a venv with {' and '.join(REQUIREMENTS)}") as remarks:
        controller.venvs.ensure("demo", venvd.VenvSpec(python=version, requirements=REQUIREMENTS), show)
        installed = {package.name: package.version for package in controller.venvs.packages("demo")}
        remarks.append(", ".join(f"{name} {installed[name]}" for name in REQUIREMENTS))
    with report.step("backend", "an HTTP backend from it") as remarks:
        started = controller.backends.start("http", venv="demo", name="demo")
        controller.operations.wait(started.operation, show)
        running = controller.backends.get("demo")
        remarks.append(str(running.url))
    with venvd.connect(running.url or "", running.token) as b:
        use_backend(b, report)
        say("\nWhat ran where")
        for line in describe(b, status.engine, home):
            say(f"  {line}")


def use_backend(b: venvd.Backend, report: Report) -> None:
    rows = generate_sales()
    text = format_csv(rows)
    with report.step("first call", "a session, pandas imported") as remarks:
        remarks.append("pandas " + str(b.import_module("pandas").__version__))
    with report.step("aggregate", f"a CSV of {ROWS:,} rows, grouped by region through handles") as remarks:
        summary = aggregate(b, text)
        table = str(summary)
        remarks.append(f"{len(text) / 1000:.0f} kB sent, {len(table)} bytes of table back")
    check(summary, rows)
    say("\n" + "\n".join("  " + line for line in table.splitlines()) + "\n\n  (plain Python counts the same units)")


def take_down(started: _controller_process.StartedController) -> None:
    """Stop and remove everything that this run made: backend, venv, runtime, controller."""
    with contextlib.suppress(venvd.VenvdError), venvd.Controller(started.url, started.token) as controller:
        for backend in controller.backends.list():
            controller.backends.delete(backend.name)
        wait_until_gone(controller)
        for venv in controller.venvs.list():
            controller.venvs.delete(venv.name)
        controller.prune(everything=True)  # no other home finds what this one leaves
    started.stop()


def wait_until_gone(controller: venvd.Controller, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while controller.backends.list() and time.monotonic() < deadline:
        time.sleep(0.1)


def main() -> int:
    say("venvd turns a Python version and a list of requirements into a running Python service\n")
    home = Path(tempfile.mkdtemp(prefix="venvd-demo-"))
    report = Report()
    started = None
    try:
        with report.step("controller", "a controller") as remarks:
            started = _controller_process.start(home, settings={"VENVD_RUN_DIR": str(home / "run")})
            remarks.append(started.url)
        with venvd.Controller(started.url, started.token) as controller:
            run_job(controller, home, report)
        say("\nTimes\n" + report.table())
    except venvd.VenvdError as error:
        say(f"\nthe demo failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nstopped")
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the cleanup
        say("\nstopping and removing everything …")
        if started is not None:
            take_down(started)
        shutil.rmtree(home, ignore_errors=True)
    say("done: nothing is left running")
    return 0


if __name__ == "__main__":
    sys.exit(main())
