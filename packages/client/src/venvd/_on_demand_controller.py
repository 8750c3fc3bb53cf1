"""A controller on demand: the first program that needs one starts it, and the last program that uses it ends it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

from venvd import _controller_process, _pid_file
from venvd._home import HOW_TO_START, NOT_INSTALLED, find_controller, home_directory, is_named, make_home
from venvd._sync.controller import Controller
from venvd.errors import NoController, NotFound, Unavailable

_START_WAIT = 15.0
"""Seconds to wait for a controller that another program has begun to start."""

_children: list[subprocess.Popen[bytes]] = []
"""Controllers that this process started. It must reap them even if another program ends them."""

Address = tuple[str, "str | None"]
"""URL and token of a controller."""


def on_demand_pid_file(directory: Path) -> Path:
    """Return the file that names the on-demand controller, which ends with the last program that uses it."""
    return directory / "private.pid"


def find_kept_pid_file(directory: Path) -> Path:
    """Return the file that names the controller that runs until `venvd down`."""
    return directory / "controller.pid"


def keep_running() -> None:
    """If the home's on-demand controller runs, let it run until `venvd down`."""
    directory = home_directory()
    if _pid_file.read_running(on_demand_pid_file(directory)) is not None:
        on_demand_pid_file(directory).replace(find_kept_pid_file(directory))


@contextlib.contextmanager
def use_controller(url: str | None = None, token: str | None = None) -> Iterator[Address]:
    """Yield URL and token of a controller: the named one, else the home's. Start the home's if it does not run.

    Raises:
        NoController: the named controller does not answer, or this environment does not contain its program.
    """
    if is_named(url):
        address = find_controller(url, token)
        if not _answers(address):
            raise NoController(f"no controller answers at {address[0]}: {HOW_TO_START}")
        yield address
        return
    directory = home_directory()
    if not _controller_process.is_installed() and _find_running(token) is None:
        raise NoController(f"no controller runs, and {NOT_INSTALLED}")
    make_home(directory)
    with (directory / "users").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield _find_or_start(directory, token)
        finally:
            _end_unused(directory, users)


@contextlib.asynccontextmanager
async def use_controller_async(url: str | None = None, token: str | None = None) -> AsyncIterator[Address]:
    """Do what `use_controller` does in a thread, so that the event loop goes on."""
    context = use_controller(url, token)
    address = await asyncio.to_thread(context.__enter__)
    try:
        yield address
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


def remove_backend(name: str, address: Address, url: str | None) -> None:
    """Stop and remove a backend. If its on-demand controller has ended, start another one to do it."""
    with contextlib.suppress(NotFound):
        try:
            with Controller(*address) as controller:
                controller.backends.delete(name)
        except NoController:
            if is_named(url):
                raise
            with use_controller() as again, Controller(*again) as controller:
                controller.backends.delete(name)


def _answers(address: Address) -> bool:
    with Controller(*address) as controller:
        return controller.alive()


def _find_running(token: str | None) -> Address | None:
    """Return the controller that the home names if it answers. A killed controller leaves its address behind."""
    try:
        address = find_controller(None, token)
    except NoController:
        return None
    return address if _answers(address) else None


def _find_or_start(directory: Path, token: str | None) -> Address:
    with (directory / "starting").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        address = _find_running(token)
        if address is not None:
            return address
        try:
            started = _controller_process.start(directory)
        except NoController:
            raise
        except Unavailable:
            # `venvd up` may have begun to start one just before.
            deadline = time.monotonic() + _START_WAIT
            while (address := _find_running(token)) is None:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            return address
        _pid_file.write(on_demand_pid_file(directory), started.process.pid)
        _children.append(started.process)
        return started.url, started.token


def _end_unused(directory: Path, users: IO[str]) -> None:
    """End the on-demand controller if no other program uses it."""
    fcntl.flock(users, fcntl.LOCK_UN)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _pid_file.stop(on_demand_pid_file(directory))
    _children[:] = [child for child in _children if child.poll() is None]
