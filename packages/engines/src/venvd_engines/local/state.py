"""The record of one launch, in its directory: what a new controller finds after the old one was killed.

The engine writes it before it starts anything; from then on only the launch's supervisor does. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from venvd_engines.local.processes import Identity

FORMAT = 2
FILE = "state.json"
PARTS = ("server", "worker")

_LAUNCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass
class Part:
    """The server or the worker host: `state` is `starting`, `running` or `exited`."""

    state: str = "starting"
    pid: int | None = None
    start: int | None = None
    detail: str = ""

    def identity(self, boot: str) -> Identity | None:
        return None if self.pid is None or self.start is None else Identity(self.pid, self.start, boot)


@dataclass
class State:
    """The record of one launch.

    Attributes:
        launch_id: the ID of the launch, which also names its directory.
        home_id: the identity of the home that owns it.
        boot: the boot of the machine in which its processes run.
        ports: the ports that it listens on, by name.
        socket_dir: the directory of its sockets, if it has one.
        supervisor: the process above both parts; None until it is started.
    """

    launch_id: str
    home_id: str
    name: str
    type: str
    boot: str
    url: str
    probe_url: str
    ports: dict[str, int] = field(default_factory=dict)
    socket_dir: str | None = None
    archive: str = ""
    venv_key: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    supervisor: Part = field(default_factory=Part)
    server: Part = field(default_factory=Part)
    worker: Part = field(default_factory=Part)
    format: int = FORMAT

    def part(self, name: str) -> Part:
        return {"server": self.server, "worker": self.worker}[name]

    def supervisor_identity(self) -> Identity | None:
        return self.supervisor.identity(self.boot)


def valid_id(launch_id: str) -> bool:
    return _LAUNCH_ID.fullmatch(launch_id) is not None


def write(directory: Path, state: State) -> None:
    """Replace the record as a whole: a reader sees the old one or the new one."""
    write_whole(directory / FILE, json.dumps(asdict(state), indent=1))


def write_whole(path: Path, text: str) -> None:
    """Write a file that nobody else reads half written, mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read(directory: Path) -> State | None:
    """The record of a launch; None where there is none that can be read."""
    try:
        found = json.loads((directory / FILE).read_text(encoding="utf-8"))
        return _state(found)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _state(found: dict[str, Any]) -> State:
    if found["format"] == 1:  # an older venvd started the backend: the supervisor had another name
        found = {**found, "supervisor": found["keeper"], "format": FORMAT}
        del found["keeper"]
    if found["format"] != FORMAT:
        raise ValueError(found["format"])
    return State(**{**found, **{name: Part(**found[name]) for name in ("supervisor", *PARTS)}})
