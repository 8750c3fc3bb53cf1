"""The controller's own program, started as a child process; it is found in this environment and never imported."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from venvd.controller import asks
from venvd.controller.client import Controller
from venvd.errors import NoController, Unavailable, VenvdError
from venvd.home import HOW_TO_START, read

PROGRAM = "venvd_controller"
_READY_TIMEOUT = 60.0
_STOP_TIMEOUT = 30.0


def installed() -> bool:
    """Whether the controller's program is in this environment."""
    return importlib.util.find_spec(PROGRAM) is not None


@dataclass
class Started:
    """A controller that this process started."""

    url: str
    """Empty until it is known, where the system chose the port."""
    token: str | None
    home: Path
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """End it; its backends keep running where they were not stopped before."""
        end(self.process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL where that is not enough."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start(
    home: Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    settings: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Started:
    """Start a controller with its own log below `home` and wait until it is ready.

    Without a `port` the system chooses one. It runs in `directory`, by default its home, so that no manifest that lies
    about is taken for its own.
    It has a session of its own, so that Ctrl-C at a terminal reaches the client alone, which then ends it in order.

    Raises:
        NoController: the program is not installed.
        Unavailable: it ended or does not become ready; says what its log says.
    """
    if not installed():
        raise NoController(f"the controller is not installed in this environment: {HOW_TO_START}")
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    env = {
        **os.environ,
        **(settings or {}),
        "VENVD_HOME": str(home.absolute()),
        "VENVD_HOST": host,
        "VENVD_PORT": str(port or 0),
    }
    log = home / "controller.log"
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM],
            env=env,
            cwd=directory or home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
    started = Started(f"http://{shown}:{port}" if port else "", None, home, process, log)
    try:
        _wait(started, begin)
    except BaseException:
        end(process)
        raise
    started.token = read(home / "token")
    return started


def _wait(started: Started, begin: int) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT
    while time.monotonic() < deadline:
        if started.process.poll() is not None:
            raise Unavailable(_why(started, begin, f"ended with status {started.process.returncode}"))
        with contextlib.suppress(VenvdError):
            if _answers(started):
                return
        time.sleep(0.05)
    raise Unavailable(_why(started, begin, f"is not ready after {_READY_TIMEOUT:g} s"))


def _answers(started: Started) -> bool:
    """Whether this controller is ready, and not another one that has its port."""
    url = started.url or read(started.home / "url")
    if url is None:
        return False
    with Controller(url, read(started.home / "token") or "") as controller:
        controller.ask(asks.ready())
        ours = Path(controller.status().home) == started.home.absolute()
    started.url = url if ours else started.url
    return ours


def _why(started: Started, begin: int, what: str) -> str:
    with started.log.open("rb") as log:
        log.seek(begin)
        said = log.read()[-2000:].decode("utf-8", "replace").strip()
    return f"the controller {what}; its log ({started.log}) says:\n{said}" if said else f"the controller {what}"
