"""A controller that no operator started: the first program that needs one starts it, the last one ends it."""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from venvd import launch, processes
from venvd.controller.client import Controller
from venvd.errors import NoController, Unavailable
from venvd.home import HOW_TO_START, find_controller, home, named

_SOON = 15.0
"""Seconds for a controller that another program has begun to start."""


_children: list[subprocess.Popen[bytes]] = []
"""Controllers that this process started: it must reap them, whoever ends them."""


def private_file(directory: Path) -> Path:
    """Where a controller that the last program ends is noted."""
    return directory / "private.pid"


def kept_file(directory: Path) -> Path:
    """Where a controller that `venvd up` keeps is noted."""
    return directory / "controller.pid"


def keep() -> None:
    """Let the home's private controller, if there is one, run on until `venvd down`."""
    directory = home()
    if processes.recorded(private_file(directory)) is not None:
        private_file(directory).replace(kept_file(directory))


Found = tuple[str, "str | None"]


@contextlib.contextmanager
def controller(url: str | None = None, token: str | None = None) -> Iterator[Found]:
    """URL and token of a controller: the one that is named, else the one of the home, started where none runs there.

    Raises:
        NoController: the one that is named does not answer, or its program is not installed here.
    """
    if named(url):
        found = find_controller(url, token)
        if not _answers(found):
            raise NoController(f"no controller answers at {found[0]}: {HOW_TO_START}")
        yield found
        return
    directory = home()
    if not launch.installed() and _of_home(token) is None:
        raise NoController(f"no controller runs, and none is installed in this environment: {HOW_TO_START}")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / "users").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield _found_or_started(directory, token)
        finally:
            _leave(directory, users)


def _answers(found: Found) -> bool:
    with Controller(*found) as client:
        return client.alive()


def _of_home(token: str | None) -> Found | None:
    """The controller that the home names, if it answers: one that was killed leaves its address behind."""
    try:
        found = find_controller(None, token)
    except NoController:
        return None
    return found if _answers(found) else None


def _found_or_started(directory: Path, token: str | None) -> Found:
    with (directory / "starting").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _of_home(token)
        if found is not None:
            return found
        try:
            started = launch.start(directory)
        except NoController:
            raise
        except Unavailable:
            # `venvd up` may have begun to start one a moment before.
            deadline = time.monotonic() + _SOON
            while (found := _of_home(token)) is None:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            return found
        processes.record(private_file(directory), started.process.pid)
        _children.append(started.process)
        return started.url, started.token


def _leave(directory: Path, users: IO[str]) -> None:
    """End the controller if no other program uses it and no operator started it."""
    fcntl.flock(users, fcntl.LOCK_UN)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        processes.stop(private_file(directory))
    _children[:] = [child for child in _children if child.poll() is None]
