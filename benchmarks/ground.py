"""What is measured runs here: backends on an engine, floors and peers as processes, each started once and kept."""

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
"""The venvs of backends, by their requirements, which are also the modules that they preload."""


EVERYWHERE = "0.0.0.0"  # noqa: S104 — in a container
HOSTS = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
LIKE = "{{.Config.Image}} {{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"


class Ground:
    """One engine and every server of a run; all of it ends with the block."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.cores = os.sched_getaffinity(0)
        self._open = ExitStack()
        self._stacks: dict[str, Stack] = {}
        self._running: dict[Backend, Running] = {}
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
            running = stack.start(wanted.kind, preload=VENVS[wanted.venv])
        except (VenvdError, AssertionError) as error:
            raise UnmeasurableError(f"the backend cannot be started: {error}") from error
        self._open.callback(stack.stop, running)
        self._running[wanted] = running
        server, worker = processes(self.engine, stack, running)
        return Address(self._near(running, wanted.kind), running.token, server, worker)

    def _near(self, running: Running, kind: str) -> str:
        """The server's own address: a published port leads through a proxy of Docker's, which floors have not."""
        if self.engine != "docker" or not PORTS[kind]:
            return running.url
        host = inspected(HOSTS, part_name(running.handle.launch_id, SERVER))[0]
        return f"{urlsplit(running.url).scheme}://{host}:{PORTS[kind][0].inside}"

    def _stack(self, venv: str) -> Stack:
        if venv not in self._stacks:
            home = self._home / venv
            home.mkdir()
            self._stacks[venv] = self._open.enter_context(engine_stack(self.engine, home, VENVS[venv]))
        return self._stacks[venv]

    def _program(self, program: Program | None) -> Address:
        assert program is not None
        if program.beside is not None and self.engine == "docker":
            return self._contained(program, program.beside)
        command = [sys.executable, "-m", program.module]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=self._home, env=machine.ENVIRONMENT)
        self._open.callback(_end, process)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise UnmeasurableError(f"{program.module} cannot be started: it says why above")
        return Address(url, server=process.pid)

    def _contained(self, program: Program, beside: Backend) -> Address:
        """A floor in a container like the server's."""
        self.address(beside)
        image, network = inspected(LIKE, part_name(self._running[beside].handle.launch_id, SERVER))
        name, port = f"venvd-bench-{secrets.token_hex(4)}", str(PORTS[beside.kind][0].inside)
        file = Path(*program.module.split(".")).with_suffix(".py")
        command = [
            "docker",
            "run",
            "--rm",
            "--no-healthcheck",
            "--name",
            name,
            "--network",
            network,
            "--label",
            "dev.venvd.bench=1",
        ]
        command += ["--volume", f"{machine.ROOT / file}:/floor.py:ro", "--entrypoint", "/opt/venv/bin/python", image]
        process = subprocess.Popen([*command, "-u", "/floor.py", EVERYWHERE, port], stdout=subprocess.PIPE, text=True)
        self._open.callback(_end, process)
        self._open.callback(subprocess.run, ["docker", "rm", "--force", name], capture_output=True, check=False)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise UnmeasurableError(f"{program.module} cannot be started in {image}: it says why above")
        (host,), (pid,) = inspected(HOSTS, name), inspected("{{.State.Pid}}", name)
        return Address(url.replace(EVERYWHERE, host), server=int(pid))


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.communicate()


def processes(engine: str, stack: Stack, running: Running) -> tuple[int, int]:
    """The process IDs, as this machine's kernel knows them, of a backend's server and warden."""
    launch = running.handle.launch_id
    if engine == "docker":
        names = [part_name(launch, part) for part in (SERVER, WORKER)]
        server, worker = inspected("{{.State.Pid}}", *names)
        return int(server), int(worker)
    record = state.read(stack.home / "backends" / launch)
    assert record is not None
    assert record.server.pid is not None
    assert record.worker.pid is not None
    return record.server.pid, record.worker.pid


def inspected(form: str, *names: str) -> list[str]:
    """Words that Docker says of containers."""
    command = ["docker", "inspect", "--format", form, *names]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
