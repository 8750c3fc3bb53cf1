"""The interface between the controller and the engines, which run backends.

An engine is synchronous: the controller calls it in threads. Methods raise only the errors of `venvd_contract.errors`;
`Unavailable` says that the engine itself does not answer. `stop` and `destroy` are idempotent. A `start` or `build`
that fails removes everything that it made. `list_owned` shows what a killed controller left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from venvd_contract.resources import BACKEND_TYPES, Leftover, LogLine, Package
from venvd_engines.dotnet import make_dotnet_env
from venvd_engines.kubernetes.settings import KubernetesSettings
from venvd_engines.way_out import PROXY_ENV, PROXY_PORT


class Progress(Protocol):
    """Receives the progress of a long job, and tells the job when it is cancelled."""

    def phase(self, name: str) -> None:
        """Begin a new phase."""

    def log(self, line: str) -> None:
        """Add one line to the log."""

    def check(self) -> None:
        """Raise `Cancelled` if the job was cancelled. A job calls this at least every half second while it waits."""


RESERVED_DIRECTORIES = ("keys-", "secrets-", "controller-")
"""The prefixes of venvd's own directories in the run directory. Clients cannot choose names that begin so."""

ROUTER = "router"
"""The server that passes calls on to the replicas of a backend."""
SERVERS = (*BACKEND_TYPES, ROUTER)
SHARED_KERNEL = frozenset({"runc", "crun", "youki", "io.containerd.runc.v2"})
"""OCI runtimes whose containers run on the kernel of the host."""


@dataclass(frozen=True)
class EngineSettings:
    """Settings of all engines; the program that owns the engine builds them."""

    home: Path
    """The directory with the state of the owner; absolute."""
    home_id: str
    """The identity of the home: a label on everything that the engine makes."""
    run_dir: Path
    """The directory for the sockets that clients use."""
    controller_socket: Path | None = None
    """The socket at which the owner serves its API to its servers, alone in its directory."""
    pipe_name_dir: Path = Path("/tmp")  # noqa: S108 - where .NET looks
    """The directory for the links of pipes by name; `TMPDIR` of their clients."""
    source_dir: Path | None = None
    """The directory with `packages/` and `services/`, which server images are built from."""
    base_image: str | None = None
    """A template with `{version}` and `{minor}`; null is the official slim image, then the local stand-in."""
    index_url: str | None = None
    ca_bundle: Path | None = None
    docker_network: str | None = None
    """The network that servers join if the owner runs in a container of it; null: they publish ports."""
    oci_runtime: str | None = None
    uid_base: int = 200_000
    """The first user ID that worker hosts may get."""
    local_dirs: Sequence[Path] = ()
    """Directories that user code may read and change on the engine local."""
    build_timeout: float = 1800.0
    build_memory_bytes: int = 4 << 30
    build_cpus: float = 2.0
    allow_source_builds: bool = False
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings)


@dataclass(frozen=True)
class Capabilities:
    """The abilities of an engine, and the guards that it lacks.

    `gaps` are sentences for the operator, one for each guard that is off or missing. `sockets` says whether clients
    reach the Unix sockets of backends that it starts.
    """

    apt_packages: bool
    network_isolation: bool
    filesystem_isolation: bool
    memory_wall: bool
    attach: bool
    gaps: Sequence[str] = ()
    sockets: bool = True


@dataclass(frozen=True)
class RuntimeRef:
    """A CPython: `version` as requested, `resolved` the exact one, `base` an image (ID, digest) or a path."""

    version: str
    resolved: str
    base: str


@dataclass(frozen=True)
class VenvBuild:
    """The inputs of a venv's build."""

    runtime: RuntimeRef
    lock: str
    """A hash-pinned requirements file without index addresses."""
    apt_packages: Sequence[str] = ()
    checks: Sequence[str] = ()
    """Modules that the built venv must be able to import; its content address does not depend on them."""
    dotnet: bool = False
    """Whether the built venv must be able to start the .NET runtime that its lock pins."""
    layout: int = 1
    """Increased when equal inputs give another image than before; not the program's version."""

    @property
    def imports(self) -> list[str]:
        """The modules that the check imports."""
        return [*self.checks, *(["clr"] if self.dotnet else [])]

    def key(self) -> str:
        """Return the content address: 32 hexadecimal digits."""
        parts = [self.runtime.resolved, self.runtime.base, self.lock, sorted(self.apt_packages), self.layout]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Image:
    """A built venv: `ref` is an image ID, or the directory of a local venv. Nothing writes to a `foreign` one."""

    key: str
    ref: str
    python: str
    packages: Sequence[Package] = ()
    foreign: bool = False


@dataclass(frozen=True)
class Port:
    """A port of a server: fixed inside, published on `Launch.host`.

    Attributes:
        name: `main` for clients, `http` for probes and metrics of a gRPC server.
        inside: the port in the server's container.
        wanted: the first port to try outside.
        exact: try no other; `Conflict` if it is taken.
    """

    name: str
    inside: int
    wanted: int
    exact: bool = False


def exact_first(ports: Sequence[Port]) -> list[Port]:
    """Sort ports for the choice of their numbers: the exact ones first, so that no other port takes their numbers."""
    return sorted(ports, key=lambda port: not port.exact)


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
        server_env: settings of the server (`VENVD_…`); the engine adds those of `SERVER_PATHS`.
        server_files: files of the host that the server reads, by the setting that names the file. The engine makes
            each readable for the server and sets the setting to the path that the server sees.
        worker_env: environment variables of user code, beside the allow-list and `make_worker_env`.
        dotnet: whether the venv has a .NET runtime.
        assemblies: a directory of the host with .NET assemblies, which user code may read.
        preload: modules that the zygote imports before it forks sessions.
        preload_timeout: seconds for these imports; after a time-out, each session starts a new interpreter.
        spare_sessions: processes that the warden forks ahead for future sessions.
        reserved: ports of the home's other backends, also of those that are about to restart.
        network: whether user code may reach the network. If false, an engine may refuse even loopback sockets. With
            `loopback`, the engine gives the worker host its own loopback, or refuses to start. `destinations` is
            `loopback` with a broker beside the server (`VENVD_NETWORK` in `server_env`) as the way out.
        oci_runtime: the OCI runtime of the worker host; null is that of `EngineSettings`, else the engine's default.
        socket_name: the backend's subdirectory of the run directory, if it has one.
        pipe_name: the name by which .NET finds the socket; null makes no link.
        keys: the first content of the server's key file; see `Engine.write_keys`.
        secrets: the first content of the server's file of secrets; see `Engine.write_secrets`.
        manages_key: the key with which the server manages venvs, for a file beside the key file; null is none.
        router: whether this is the router in front of the replicas of a backend: a server without a worker host. Its
            key file has the table of the replicas.
        routed: whether a router reaches the server.
        beside: whether another launch has the address of its backend until `Engine.take_address`. This launch starts
            beside the other one, with its own ports or names of sockets.
        address_name: the name that the engine gives the address, if it gives names; null is `name`.
        user_id: the user of the worker host, one of `Engine.claim_user_ids`; null is the usual one of the engine.
    """

    id: str
    name: str
    type: str
    image: Image
    server_env: Mapping[str, str]
    server_files: Mapping[str, Path] = field(default_factory=dict)
    worker_env: Mapping[str, str] = field(default_factory=dict)
    dotnet: bool = False
    assemblies: Path | None = None
    preload: Sequence[str] = ()
    preload_timeout: float = 30.0
    spare_sessions: int = 2
    host: str = "127.0.0.1"
    ports: Sequence[Port] = ()
    reserved: Collection[int] = ()
    network: bool | Literal["loopback", "destinations"] = False
    oci_runtime: str | None = None
    limits: WorkerLimits = WorkerLimits()
    socket_name: str | None = None
    pipe_name: str | None = None
    keys: bytes = b'{"keys": []}'
    secrets: bytes = field(default=b'{"variables": {}, "headers": []}', repr=False)
    manages_key: str | None = None
    router: bool = False
    routed: bool = False
    beside: bool = False
    address_name: str | None = None
    user_id: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def server_kind(self) -> str:
        """The kind of the server for `Engine.prepare` and `Engine.identify_server`: its type, or `router`."""
        return ROUTER if self.router else self.type

    @property
    def has_secrets(self) -> bool:
        """Whether the file of secrets contains any."""
        return any(json.loads(self.secrets).values())

    @property
    def url_scheme(self) -> str:
        """The scheme of the address for clients, if that is not a socket."""
        scheme = "grpc" if self.type == "rpc" else "http"
        return f"{scheme}s" if "VENVD_TLS_CERT" in self.server_files else scheme

    @property
    def probe_scheme(self) -> str:
        """The scheme of the address of probes, if that is not a socket. A gRPC server answers them without TLS."""
        return "http" if self.type == "rpc" else self.url_scheme

    def make_worker_env(self, prefix: str, assemblies: str) -> dict[str, str]:
        """Make the environment variables of user code.

        Args:
            prefix: where user code sees its venv.
            assemblies: where user code sees the directory of `assemblies`.
        """
        proxy = PROXY_ENV if self.network == "destinations" else {}
        if not self.dotnet:
            return {**proxy, **self.worker_env}
        env = {**proxy, **make_dotnet_env(prefix, self.image.python)}
        if self.assemblies is not None:
            env["VENVD_ASSEMBLIES"] = assemblies
        return {**env, **self.worker_env}

    def warden_options(self) -> list[str]:
        """List the arguments of the warden that are the same on every engine."""
        preload = [word for module in self.preload for word in ("--preload", module)]
        proxy = ["--proxy-port", str(PROXY_PORT)] if self.network == "destinations" else []
        return [
            *preload,
            "--preload-timeout",
            f"{self.preload_timeout:.15g}",
            "--spares",
            str(self.spare_sessions),
            *proxy,
        ]


SERVER_PATHS = (
    "VENVD_CHANNEL", "VENVD_HOST", "VENVD_PORT", "VENVD_HTTP_PORT", "VENVD_SOCKET_DIR", "VENVD_SOCKET_PREFIX",
    "VENVD_KEYS_FILE", "VENVD_SECRETS_FILE", "VENVD_AWAIT_SECRETS", "VENVD_MANAGES_KEY_FILE",
    "VENVD_CONTROLLER_SOCKET", "VENVD_CONTROLLER_URL", "VENVD_CONTROLLER_CA_FILE", "VENVD_EGRESS_BROKER_FILE",
    "VENVD_SIDECAR",
)  # fmt: skip
"""Settings of a server that the engine sets."""


@dataclass(frozen=True)
class LaunchRecord:
    """Finds a backend again; the controller stores it and reads only the addresses.

    Attributes:
        launch_id: `Launch.id`.
        url: the address for clients: `http://…`, `unix:///…`, `grpc://…`.
        probe_url: the address of `/livez`, `/readyz` and `/metrics`: `http://…`, `https://…` or `unix:///…`.
        http_url: where clients reach the HTTP port of a gRPC server.
        data: JSON, for the engine alone.
        inner_url: where the router of the backend reaches the server; null is `url`.
        inner_http_url: where the router reaches the HTTP port of a gRPC server; null is `http_url`.
        own_url: leads to this launch alone, also after another one has taken the address; null is `url`.
        certificate_file: the file with the server's certificate, if the server answers probes over TLS.
        certificate: the content of that file at the start of the server, PEM. The controller sets both.
    """

    engine: str
    launch_id: str
    url: str
    probe_url: str
    data: Mapping[str, Any]
    version: int = 1
    http_url: str | None = None
    inner_url: str | None = None
    inner_http_url: str | None = None
    own_url: str | None = None
    certificate_file: str | None = None
    certificate: str | None = None


@dataclass(frozen=True)
class PartState:
    """The server or the worker host of a backend: `running`, `exited` or `missing`, and how it exited."""

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
    """A backend that the engine found by its labels.

    Attributes:
        complete: false if a part is missing.
        running: whether both parts run; `inspect` says how one ended.
    """

    launch_id: str
    name: str
    record: LaunchRecord | None
    complete: bool
    running: bool = False


class Engine(Protocol):
    """Runs backends. If `has_routers` is true, it also runs routers in front of replicas.

    `moving_types` are the types of backends whose address `take_address` moves from one launch to another.
    """

    name: str
    has_routers: bool
    moving_types: frozenset[str]

    def check(self) -> None:
        """Raise `Unavailable`, with the reason, if the engine does not answer."""

    def capabilities(self) -> Capabilities: ...

    def count_processors(self) -> int | None: ...  # those of the machine that runs backends; None for a cluster

    def resolve(self, version: str, progress: Progress) -> RuntimeRef:
        """Find or fetch the CPython of a runtime; `NotFound` lists the versions of this machine."""

    def lock(
        self, runtime: RuntimeRef, requirements: Sequence[str], progress: Progress, constraints: Sequence[str] = ()
    ) -> str:
        """Resolve requirements, within constraints, to a hash-pinned file; `InvalidRequest` names the conflict."""

    def build(self, venv: VenvBuild, progress: Progress) -> Image:
        """Build a venv, or find it by its key. Only one build of a key runs at a time."""

    def adopt(self, folder: Path, checks: Sequence[str], progress: Progress) -> Image:
        """Use a virtual environment of the host without changing it; `Unimplemented` if the engine cannot."""

    def find_image(self, key: str) -> Image | None: ...

    def remove_image(self, key: str) -> None:
        """Remove a built venv that no backend uses."""

    def prepare(self, backend_type: str, progress: Progress) -> None:
        """Make the image of this type's server, or the worker archive, if it is absent."""

    def identify_server(self, backend_type: str) -> str | None:
        """Identify the programs that a start of this type would run beside user code, by their content.

        The result has at most 32 characters. It changes if server or worker host do. None: the programs are unknown.
        """

    def claim_user_ids(self) -> Sequence[int]:
        """Return the user IDs that worker hosts of this home may have. No other home on this machine has one of them.

        The home keeps them as long as it has launches. Empty if worker hosts run as the owner's user.
        """

    def make_manifest(self, launch: Launch, token: str | None, image: str | None) -> Sequence[Mapping[str, Any]]:
        """Make the Kubernetes objects that run a launch of type `pipe` beside its client, and store nothing.

        `token` and `image` are the client's; without an image it sleeps. `Unimplemented` says what pods do not have.
        """

    def start(self, launch: Launch, progress: Progress) -> LaunchRecord:
        """Start server and worker host; they may not be ready yet.

        Raises:
            Conflict: a port is taken.
            InvalidRequest: worker hosts cannot run with the OCI runtime of the launch; the message says why.
        """

    def inspect(self, record: LaunchRecord) -> BackendState: ...

    def take_address(self, record: LaunchRecord, former: LaunchRecord) -> None:
        """Lead new connections to a backend's address to the launch of `record`, which was started beside `former`.

        Existing connections stay with `former`. If the address already leads to the launch of `record`, nothing
        changes. Types that are not in `moving_types` have no such address.
        """

    def write_keys(self, record: LaunchRecord, data: bytes) -> None:
        """Replace the key file of a backend's server in one step; the server sees it within two seconds.

        The file is never where user code runs, unless the engine has no `filesystem_isolation`. It is JSON:
        `{"keys": [{"name", "sha256", "scope": "use" | "metrics", "expiresAt": RFC 3339 or null}]}`. A backend that is
        gone, or that an older venvd started without a key file, is not an error.

        Raises:
            Unavailable: the file of a running server cannot be replaced.
        """

    def write_secrets(self, record: LaunchRecord, data: bytes) -> None:
        """Replace the file of secrets of a backend's server; the server sees it within two seconds.

        The file is never where user code runs. It is only in memory, on a tmpfs, unless the machine has none. It is
        JSON: `{"variables": {NAME: VALUE}, "headers": [{"name", "value", "hosts"}], "authorities": PEM}`. A backend
        that is gone, or that an older venvd started without such a file, is not an error.

        Raises:
            Unavailable: the file of a running server cannot be replaced.
        """

    def refresh_files(self, record: LaunchRecord) -> None:
        """Give the server the present content of `Launch.server_files`; it sees a change within two seconds.

        An engine whose servers see the files of the host does nothing. A backend that is gone is not an error.

        Raises:
            InvalidRequest: the owner cannot read a file.
            Unavailable: the files of a running server cannot be replaced.
        """

    def stop(self, record: LaunchRecord, grace: float) -> None:
        """Stop both parts within `grace` seconds."""

    def destroy(self, record: LaunchRecord, *, again: bool = False) -> None:
        """Remove everything of the backend.

        With `again`, before a restart, the directory of its sockets stays: clients in containers mount it.
        """

    def destroy_owned(self, owned: Owned) -> None:
        """Remove everything of a backend that `list_owned` found, complete or not."""

    def list_owned(self) -> Sequence[Owned]: ...

    def watch(self) -> Iterator[None] | None:
        """Report that parts of backends end or vanish.

        Returns:
            An iterator that yields once when the engine listens, and then after each such event. If the connection ends
            or was silent for long, it ends or raises an error. None: this engine reports nothing, and `list_owned`
            costs little.
        """

    def leftovers(self, used: Collection[str]) -> Sequence[Leftover]:
        """List the objects of this home that nothing uses; `used` are the keys of venvs that stay."""

    def discard(self, leftover: Leftover) -> None:
        """Remove one of `leftovers`; it is not an error if it is absent."""

    def sweep(self) -> None:
        """Remove unfinished work of a killed controller: build containers and partial venvs, but no backends."""

    def logs(self, record: LaunchRecord, tail: int | None, follow: bool) -> Iterator[LogLine]:
        """Yield the backend's log lines, oldest first; with `follow`, until the backend ends."""
