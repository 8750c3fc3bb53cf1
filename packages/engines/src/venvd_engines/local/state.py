"""The record of one launch, a file in its directory. A controller that is started again reads it.

The engine writes the record before it starts a process; afterwards only the supervisor of the launch writes it.
Standard library only.
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
KEYS = "keys.json"
MANAGES_KEY = "manages.key"
"""The key file of the server, beside the record."""
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
    """One launch.

    Attributes:
        launch_id: the ID of the launch, and the name of its directory.
        home_id: the identity of the owner's home.
        boot: the boot of the machine in which the processes run.
        ports: port numbers by name.
        socket_dir: the directory of the sockets, if there is one.
        socket_prefix: the beginning of the names of its sockets.
        link: the path by which .NET finds the socket, if there is one.
        supervisor: the process above both parts; its `pid` is None until it runs.
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
    socket_prefix: str = ""
    link: str | None = None
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
    """Replace the whole record in one step: a reader sees the old one or the new one."""
    write_whole(directory / FILE, json.dumps(asdict(state), indent=1))


def write_whole(path: Path, text: str) -> None:
    """Write a file of mode 0600 in one step: no reader sees a part of it."""
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
    """Read the record of a launch. Return None if it is missing or damaged."""
    try:
        return _parse(json.loads((directory / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _parse(fields: dict[str, Any]) -> State:
    if fields["format"] == 1:  # an older venvd started the backend, and gave the supervisor another name
        fields = {**fields, "supervisor": fields["keeper"], "format": FORMAT}
        del fields["keeper"]
    if fields["format"] != FORMAT:
        raise ValueError(fields["format"])
    return State(**{**fields, **{name: Part(**fields[name]) for name in ("supervisor", *PARTS)}})
