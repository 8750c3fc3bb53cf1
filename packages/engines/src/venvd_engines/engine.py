"""The interface between the controller and where backends run.

An engine is synchronous: the controller calls it in threads. Every method may raise the errors of
`venvd_contract.errors` and no others; `Unavailable` where the engine itself is away. `stop` and `destroy` may be called
again and again. Whatever `start` or `build` leaves half made, it removes before it raises; what a killed controller
left is found again by `list_owned`, and by the labels of its home.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from venvd_contract.resources import Leftover, LogLine, Package


class Progress(Protocol):
    """Where long work says how far it is, and learns that nobody wants it any more."""

    def phase(self, name: str) -> None:
        """A new phase begins."""

    def log(self, line: str) -> None:
        """One line of the work's own output."""

    def check(self) -> None:
        """Raise `Cancelled` where the work was cancelled; called at least every half second of waiting."""


@dataclass(frozen=True)
class EngineSettings:
    """What every engine is told; built by the program that owns the engine."""

    home: Path
    """State of the owner; absolute."""
    home_id: str
    """Identity of the home: a label on everything the engine makes."""
    run_dir: Path
    """The directory for the sockets that clients use."""
    source_dir: Path | None = None
    """Where the sources of servers lie (`packages/`, `services/`), for their images."""
    base_image: str | None = None
    """Template with `{version}` and `{minor}`; null is the official slim image, then the local stand-in."""
    index_url: str | None = None
    ca_bundle: Path | None = None
    docker_network: str | None = None
    """Network that the servers join, where the owner runs in a container of it; null: reached by published ports."""
    oci_runtime: str | None = None
    build_timeout: float = 1800.0
    build_memory_bytes: int = 4 << 30
    build_cpus: float = 2.0
    allow_source_builds: bool = False


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do, and what it does not guard.

    `gaps` are sentences for the operator, one for each guard of the docker engine that this one lacks.
    """

    apt_packages: bool
    network_isolation: bool
    filesystem_isolation: bool
    memory_wall: bool
    attach: bool
    gaps: Sequence[str] = ()


@dataclass(frozen=True)
class RuntimeRef:
    """A CPython that was found: `version` as asked for, `resolved` exactly, `base` an image (ID, digest) or a path."""

    version: str
    resolved: str
    base: str


@dataclass(frozen=True)
class VenvBuild:
    """What makes a venv, all of it in `key()`."""

    runtime: RuntimeRef
    lock: str
    """A hash-pinned requirements file without index addresses."""
    apt_packages: Sequence[str] = ()
    layout: int = 1
    """Raised when the same inputs would be laid out otherwise; not the program's version."""

    def key(self) -> str:
        """The content address: 32 hexadecimal digits."""
        parts = [self.runtime.resolved, self.runtime.base, self.lock, sorted(self.apt_packages), self.layout]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Image:
    """A venv that was built: `ref` is an image ID, or the directory of a local venv."""

    key: str
    ref: str
    python: str
    packages: Sequence[Package] = ()


@dataclass(frozen=True)
class Port:
    """A port of a server: fixed inside, published on `Launch.host`.

    Attributes:
        name: `main` for the one that clients use, `http` for probes and metrics of a server that speaks gRPC.
        inside: the port in the server's container.
        wanted: the first port to try outside.
        exact: no other will do: `Conflict` where it is taken.
    """

    name: str
    inside: int
    wanted: int
    exact: bool = False


@dataclass(frozen=True)
class WorkerLimits:
    memory_bytes: int = 2 << 30
    cpus: float = 2.0
    processes: int = 256
    tmpfs_bytes: int = 512 << 20


@dataclass(frozen=True)
class Launch:
    """One start of a backend.

    Attributes:
        id: new for each start; names what the engine makes.
        server_env: the settings of the server (`VENVD_…`), without those of `SERVER_PATHS`, which the engine adds.
        worker_env: what user code finds in its environment beside the allow-list.
        preload: modules that are imported once, before sessions are forked.
        preload_timeout: seconds that this may take; without, each session is an interpreter of its own.
        spare_sessions: processes forked ahead, for sessions that are yet to come.
        reserved: ports that other backends of the home have, or come back to in a moment.
        network: whether user code may reach the network.
        socket_name: name of the backend's subdirectory of the run directory, where it has one.
    """

    id: str
    name: str
    type: str
    image: Image
    server_env: Mapping[str, str]
    worker_env: Mapping[str, str] = field(default_factory=dict)
    preload: Sequence[str] = ()
    preload_timeout: float = 30.0
    spare_sessions: int = 2
    host: str = "127.0.0.1"
    ports: Sequence[Port] = ()
    reserved: Collection[int] = ()
    network: bool = False
    limits: WorkerLimits = WorkerLimits()
    socket_name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def warden_options(self) -> list[str]:
        """Words of the warden's command line that do not depend on where it runs."""
        preload = [word for module in self.preload for word in ("--preload", module)]
        return [*preload, "--preload-timeout", f"{self.preload_timeout:g}", "--spares", str(self.spare_sessions)]


SERVER_PATHS = ("VENVD_CHANNEL", "VENVD_HOST", "VENVD_PORT", "VENVD_HTTP_PORT", "VENVD_SOCKET_DIR")
"""Settings of a server that depend on where it runs: the engine sets them."""


@dataclass(frozen=True)
class LaunchRecord:
    """What an engine needs to find a backend again; the controller keeps it and reads only the addresses.

    Attributes:
        launch_id: `Launch.id`.
        url: where clients find the backend: `http://…`, `unix:///…`, `grpc://…`.
        probe_url: where the controller finds `/livez`, `/readyz` and `/metrics`: `http://…` or `unix:///…`.
        data: the engine's own; JSON.
    """

    engine: str
    launch_id: str
    url: str
    probe_url: str
    data: Mapping[str, Any]
    version: int = 1


@dataclass(frozen=True)
class PartState:
    """The server or the worker host of a backend: `running`, `exited` or `missing`, and how it ended."""

    state: str
    detail: str = ""


@dataclass(frozen=True)
class BackendState:
    server: PartState
    worker: PartState

    @property
    def running(self) -> bool:
        return self.server.state == self.worker.state == "running"


@dataclass(frozen=True)
class Owned:
    """A backend that the engine found by its labels; `complete` is false where parts of it are missing."""

    launch_id: str
    name: str
    record: LaunchRecord | None
    complete: bool


class Engine(Protocol):
    name: str

    def check(self) -> None:
        """Raise `Unavailable`, with the reason, where the engine does not answer."""

    def capabilities(self) -> Capabilities: ...

    def resolve(self, version: str, progress: Progress) -> RuntimeRef:
        """Find or fetch the CPython of a runtime; `NotFound` names the versions that there are."""

    def lock(self, runtime: RuntimeRef, requirements: Sequence[str], progress: Progress) -> str:
        """Resolve requirements to a hash-pinned file; `InvalidRequest` says what cannot be resolved and why."""

    def build(self, venv: VenvBuild, progress: Progress) -> Image:
        """Build a venv, or find it by its key; one build of a key at a time."""

    def find_image(self, key: str) -> Image | None: ...

    def remove_image(self, key: str) -> None:
        """Remove a built venv that no backend uses."""

    def prepare(self, backend_type: str, progress: Progress) -> None:
        """Make what a server of this type needs and that is still absent: its image, the worker archive."""

    def start(self, launch: Launch, progress: Progress) -> LaunchRecord:
        """Start server and worker host; they may not be ready yet. `Conflict` where a port is taken."""

    def inspect(self, record: LaunchRecord) -> BackendState: ...

    def stop(self, record: LaunchRecord, grace: float) -> None:
        """Stop both parts within `grace` seconds."""

    def destroy(self, record: LaunchRecord, *, again: bool = False) -> None:
        """Remove everything of the backend; with `again`, which says that it is about to be started anew, but for the
        directory of its sockets, which clients in containers have mounted.
        """

    def destroy_owned(self, owned: Owned) -> None:
        """Remove everything of a backend that `list_owned` found, whole or not."""

    def list_owned(self) -> Sequence[Owned]: ...

    def leftovers(self, used: Collection[str]) -> Sequence[Leftover]:
        """What this home keeps and nothing uses; `used` are the keys of venvs that are to stay."""

    def discard(self, leftover: Leftover) -> None:
        """Remove one of `leftovers`; none there is fine."""

    def sweep(self) -> None:
        """Remove what a killed controller left half made, backends apart: build containers, partial venvs."""

    def logs(self, record: LaunchRecord, tail: int | None, follow: bool) -> Iterator[LogLine]:
        """The backend's log lines, oldest first; with `follow` until it ends."""
