"""What a controller does on Docker: starts of backends, builds of venvs, and nothing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.controller import Controller, running_controller

from benchmarks.clients.timing import median_of
from benchmarks.figure import Address, Probe, UnmeasurableError

PYTHON = "3.13"
IMAGE = f"venvd-base:{PYTHON}"
NUMERIC = ("numpy", "pandas")
ADDED = ("six", "idna", "iniconfig", "attrs", "click", "packaging", "pluggy", "certifi")
"""Small packages that need no others; each build adds the next one."""
IDLE_KINDS = ("http", "pipe", "rpc")
IDLE_SECONDS = 20
SETTLE_SECONDS = 5
"""After a start, for what a process does once."""
LONGEST_SECONDS = 120


@contextmanager
def docker_run(_at: Address) -> Iterator[Probe]:
    """`docker run` of a program that ends at once, in seconds."""
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        raise UnmeasurableError(f"there is no image {IMAGE} (`make base-images` makes it)")
    command = ["docker", "run", "--rm", "--network", "none", IMAGE, "true"]
    yield median_of(lambda: subprocess.run(command, check=True), 1)


@contextmanager
def start_backends(_at: Address, count: int) -> Iterator[Probe]:
    """Seconds from the first request until all of so many backends are ready."""
    with running_controller("docker") as controller:
        controller.venv("bare", python=PYTHON)
        start_at_once(controller, 1)  # builds the server's image
        yield lambda _batch: start_at_once(controller, count)


@contextmanager
def add_package(_at: Address) -> Iterator[Probe]:
    """Seconds from the request until a venv of numpy and pandas is ready that has one package more than before."""
    with running_controller("docker") as controller:
        requirements = [*NUMERIC]
        controller.venv("numeric", python=PYTHON, requirements=requirements)
        added = iter(ADDED)

        def add(_batch: int) -> float:
            package = next(added, None)
            if package is None:
                raise UnmeasurableError(f"there are packages for {len(ADDED)} rounds only")
            requirements.append(package)
            spec = {"python": PYTHON, "requirements": requirements}
            change = controller.api("PUT", "/v1/venvs/numeric", spec)
            return measure_operations([await_operation(controller, change["operation"])])

        yield add


@contextmanager
def idle_sleeper(_at: Address) -> Iterator[Probe]:
    """Percent of a core that a process needs that wakes once a second."""
    command = ["python3", "-c", "import time\nwhile True: time.sleep(1)"]
    with subprocess.Popen(command) as process:
        time.sleep(SETTLE_SECONDS)
        yield lambda _batch: _measure_idle(process.pid)
        process.kill()


@contextmanager
def idle_controller(_at: Address) -> Iterator[Probe]:
    """Percent of a core that a controller with three backends needs without requests."""
    with running_controller("docker") as controller:
        controller.venv("bare", python=PYTHON)
        with controller.backends("bare", IDLE_KINDS):
            time.sleep(SETTLE_SECONDS)
            assert controller.process is not None
            pid = controller.process.pid
            yield lambda _batch: _measure_idle(pid)


def start_at_once(controller: Controller, count: int) -> float:
    """Start backends at once, and delete them."""
    answers = [
        controller.api("POST", "/v1/backends", {"venv": "bare", "type": "http", "name": f"b{number}"})
        for number in range(count)
    ]
    took = measure_operations([await_operation(controller, answer["operation"]) for answer in answers])
    for answer in answers:
        controller.delete_backend(answer["backend"]["name"])
    return took


def await_operation(controller: Controller, operation: dict[str, Any]) -> dict[str, Any]:
    ended = controller.wait(operation, LONGEST_SECONDS)
    if ended["state"] != "succeeded":
        raise UnmeasurableError(f"the operation {ended['kind']} is {ended['state']}: {ended['error']}")
    return ended


def measure_operations(operations: Sequence[dict[str, Any]]) -> float:
    """Seconds from the creation of the first operation to the end of the last one, by the controller's clock."""
    begin = min(datetime.fromisoformat(each["createdAt"]) for each in operations)
    return (max(datetime.fromisoformat(each["endedAt"]) for each in operations) - begin).total_seconds()


def _measure_idle(pid: int) -> float:
    before = _read_cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    return (_read_cpu_seconds(pid) - before) / IDLE_SECONDS * 100


def _read_cpu_seconds(pid: int) -> float:
    """CPU time of all threads; `stat` counts in steps that are too long for what idles."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9
