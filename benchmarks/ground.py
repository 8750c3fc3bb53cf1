"""What is measured runs here: backends on an engine, floors and peers as processes, each started once and kept."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.stack import Running, Stack, engine_stack

from benchmarks import machine
from benchmarks.figure import Address, Backend, Program, UnmeasurableError
from venvd_contract.errors import VenvdError
from venvd_engines.docker.labels import SERVER, WORKER, part_name
from venvd_engines.local import state

VENVS: dict[str, tuple[str, ...]] = {"bare": (), "numeric": ("numpy", "pandas")}
"""The venvs of backends, by their requirements."""


class Ground:
    """One engine and every server of a run; all of it ends with the block."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.cores = os.sched_getaffinity(0)
        self._open = ExitStack()
        self._stacks: dict[str, Stack] = {}
        self._addresses: dict[Backend | Program | None, Address] = {None: Address()}

    def __enter__(self) -> Self:
        self._open.__enter__()
        self._home = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="venvd-bench-")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def address(self, server: Backend | Program | None) -> Address:
        """Where it is; started where it does not run yet.

        Raises:
            UnmeasurableError: it cannot be started; says why.
        """
        found = self._addresses.get(server)
        if found is None:
            found = self._backend(server) if isinstance(server, Backend) else self._program(server)
            self._addresses[server] = found
        return found

    def _backend(self, wanted: Backend) -> Address:
        try:
            stack = self._stack(wanted.venv)
            running = stack.start(wanted.kind)
        except (VenvdError, AssertionError) as error:
            raise UnmeasurableError(f"the backend cannot be started: {error}") from error
        self._open.callback(stack.stop, running)
        server, worker = processes(self.engine, stack, running)
        return Address(running.url, running.token, server, worker)

    def _stack(self, venv: str) -> Stack:
        if venv not in self._stacks:
            home = self._home / venv
            home.mkdir()
            self._stacks[venv] = self._open.enter_context(engine_stack(self.engine, home, VENVS[venv]))
        return self._stacks[venv]

    def _program(self, program: Program | None) -> Address:
        assert program is not None
        command = [sys.executable, "-m", program.module, *program.arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=self._home, env=machine.ENVIRONMENT)
        self._open.callback(_end, process)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise UnmeasurableError(f"{program.module} cannot be started: it says why above")
        return Address(url, server=process.pid)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.communicate()


def processes(engine: str, stack: Stack, running: Running) -> tuple[int, int]:
    """The process IDs, as this machine's kernel knows them, of a backend's server and warden."""
    launch = running.handle.launch_id
    if engine == "docker":
        names = [part_name(launch, part) for part in (SERVER, WORKER)]
        command = ["docker", "inspect", "--format", "{{.State.Pid}}", *names]
        server, worker = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return int(server), int(worker)
    record = state.read(stack.home / "backends" / launch)
    assert record is not None
    assert record.server.pid is not None
    assert record.worker.pid is not None
    return record.server.pid, record.worker.pid
