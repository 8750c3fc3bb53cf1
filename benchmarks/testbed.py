"""Where the benchmarks run: backends on an engine, floors and peers as processes. Each one starts once and stays."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from harness.stack import PORTS, Running, Stack, engine_stack

from benchmarks import machine
from benchmarks.figure import Address, Backend, Program, UnmeasurableError
from venvd_contract.errors import VenvdError
from venvd_engines.docker.labels import SERVER, WORKER, part_name
from venvd_engines.local import state

VENVS: dict[str, tuple[str, ...]] = {"bare": (), "numeric": ("numpy", "pandas")}
"""The venvs of backends and their requirements, which are also the modules that they preload."""

SESSIONS = 128
"""Sessions that a backend may have: the row of sessions in a row makes a hundred."""
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 — in a container
PID = "{{.State.Pid}}"
ADDRESSES = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
IMAGE_AND_NETWORK = "{{.Config.Image}} {{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"


class Testbed:
    """One engine and every server of a run. Leaving the block ends them all."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.cores = os.sched_getaffinity(0)
        self._resources = ExitStack()
        self._stacks: dict[tuple[str, str], Stack] = {}
        self._running: dict[Backend, Running] = {}
        self._addresses: dict[Backend | Program | None, Address] = {None: Address()}

    def __enter__(self) -> Self:
        self._resources.__enter__()
        self._home = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="venvd-bench-")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, traceback)

    def address(self, server: Backend | Program | None) -> Address:
        """The address of a server, which is started on first use.

        Raises:
            UnmeasurableError: the server cannot be started, and why.
        """
        address = self._addresses.get(server)
        if address is None:
            address = self._start_backend(server) if isinstance(server, Backend) else self._start_program(server)
            self._addresses[server] = address
        return address

    def _start_backend(self, backend: Backend) -> Address:
        engine = backend.engine or self.engine
        try:
            stack = self._stack(engine, backend.venv)
            running = stack.start(backend.kind, preload=VENVS[backend.venv], VENVD_MAX_SESSIONS=str(SESSIONS))
        except (VenvdError, AssertionError) as error:
            raise UnmeasurableError(f"the backend cannot be started: {error}") from error
        self._resources.callback(stack.stop, running)
        self._running[backend] = running
        server, worker = find_processes(engine, stack, running)
        return Address(direct_url(engine, running, backend.kind), running.token, server, worker)

    def _stack(self, engine: str, venv: str) -> Stack:
        key = engine, venv
        if key not in self._stacks:
            home = self._home / engine / venv
            home.mkdir(parents=True)
            self._stacks[key] = self._resources.enter_context(engine_stack(engine, home, VENVS[venv]))
        return self._stacks[key]

    def _start_program(self, program: Program | None) -> Address:
        assert program is not None
        if program.beside is not None and self.engine == "docker":
            return self._start_in_container(program, program.beside)
        command = [sys.executable, "-m", program.module]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=self._home, env=machine.ENVIRONMENT)
        self._resources.callback(_terminate, process)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise UnmeasurableError(f"{program.module} cannot be started; its output is above")
        return Address(url, server=process.pid)

    def _start_in_container(self, program: Program, beside: Backend) -> Address:
        """Start a floor in a container like that of the server."""
        self.address(beside)
        image, network = inspect(IMAGE_AND_NETWORK, part_name(self._running[beside].record.launch_id, SERVER))
        name, port = f"venvd-bench-{secrets.token_hex(4)}", str(PORTS[beside.kind][0].inside)
        source = machine.ROOT / Path(*program.module.split(".")).with_suffix(".py")
        command = ["docker", "run", "--rm", "--no-healthcheck", "--name", name, "--label", "dev.venvd.bench=1"]
        command += ["--network", network, "--volume", f"{source}:/floor.py:ro"]
        command += ["--entrypoint", "/opt/venv/bin/python", image, "-u", "/floor.py", ALL_ADDRESSES, port]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._resources.callback(_terminate, process)
        self._resources.callback(subprocess.run, ["docker", "rm", "--force", name], capture_output=True, check=False)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise UnmeasurableError(f"{program.module} cannot be started in {image}; its output is above")
        (host,), (pid,) = inspect(ADDRESSES, name), inspect(PID, name)
        return Address(url.replace(ALL_ADDRESSES, host), server=int(pid))


def direct_url(engine: str, running: Running, kind: str) -> str:
    """The URL of the server itself. A published port goes through Docker's proxy, which floors do not use."""
    if engine != "docker" or not PORTS[kind]:
        return running.url
    host = inspect(ADDRESSES, part_name(running.record.launch_id, SERVER))[0]
    return f"{urlsplit(running.url).scheme}://{host}:{PORTS[kind][0].inside}"


def _terminate(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.communicate()


def find_processes(engine: str, stack: Stack, running: Running) -> tuple[int, int]:
    """The process IDs of a backend's server and warden, in the namespace of the host; 0 where a node has them."""
    if engine == "kubernetes":
        return 0, 0
    launch = running.record.launch_id
    if engine == "docker":
        names = [part_name(launch, part) for part in (SERVER, WORKER)]
        server, worker = inspect(PID, *names)
        return int(server), int(worker)
    record = state.read(stack.home / "backends" / launch)
    assert record is not None
    assert record.server.pid is not None
    assert record.worker.pid is not None
    return record.server.pid, record.worker.pid


def inspect(template: str, *names: str) -> list[str]:
    """The words that `docker inspect` prints for some containers."""
    command = ["docker", "inspect", "--format", template, *names]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
