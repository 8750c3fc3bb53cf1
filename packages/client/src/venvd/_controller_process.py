"""Starts the controller as a child process. Its program is in this environment and is never imported here."""

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

from venvd import _controller_api as api
from venvd._home import NOT_INSTALLED, make_home, read_line
from venvd._sync.controller import Controller
from venvd.errors import NoController, Unavailable, VenvdError

PROGRAM = "venvd_controller"
_READY_TIMEOUT = 180.0
_STOP_TIMEOUT = 30.0


def is_installed() -> bool:
    """Return whether this environment contains the controller's program."""
    return importlib.util.find_spec(PROGRAM) is not None


@dataclass
class StartedController:
    """A controller that this process started."""

    url: str
    """The address of the controller. If the system chooses the port, this is empty until it is known."""
    token: str | None
    home: Path
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """End the controller. Its backends keep running."""
        end(self.process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process with SIGTERM, then SIGKILL."""
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
) -> StartedController:
    """Start a controller and wait until it is ready. It writes its log to `home`.

    The controller has its own process session. So Ctrl-C at a terminal reaches only the client, which then ends the
    controller.

    Args:
        home: the controller's home.
        host: the address to listen on.
        port: the port to listen on. None lets the system choose.
        settings: further environment variables.
        directory: the working directory, where the controller looks for a manifest. Default: the home.

    Raises:
        NoController: the program is not installed.
        Unavailable: the controller ended or does not become ready. The message contains the end of its log.
    """
    if not is_installed():
        raise NoController(NOT_INSTALLED)
    make_home(home)
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
    started = StartedController(f"http://{shown}:{port}" if port else "", None, home, process, log)
    try:
        _wait_until_ready(started, begin)
    except BaseException:
        end(process)
        raise
    started.token = read_line(home / "token")
    return started


def _wait_until_ready(started: StartedController, begin: int) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT
    while time.monotonic() < deadline:
        if started.process.poll() is not None:
            raise Unavailable(_explain(started, begin, f"ended with status {started.process.returncode}"))
        with contextlib.suppress(VenvdError):
            if _is_ready(started):
                return
        time.sleep(0.05)
    raise Unavailable(_explain(started, begin, f"is not ready after {_READY_TIMEOUT:g} s"))


def _is_ready(started: StartedController) -> bool:
    """Return whether this controller is ready, and not another one on its port."""
    url = started.url or read_line(started.home / "url")
    if url is None:
        return False
    with Controller(url, read_line(started.home / "token") or "") as controller:
        controller._connection.send(api.check_ready())
        ours = Path(controller.status().home) == started.home.absolute()
    started.url = url if ours else started.url
    return ours


def _explain(started: StartedController, begin: int, what: str) -> str:
    with started.log.open("rb") as log:
        log.seek(begin)
        text = log.read()[-2000:].decode("utf-8", "replace").strip()
    return f"the controller {what}; its log ({started.log}) says:\n{text}" if text else f"the controller {what}"
