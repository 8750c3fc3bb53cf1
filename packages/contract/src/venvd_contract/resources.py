"""The resources of the controller's REST API, with the field names of the wire, hence camelCase.

Times are RFC 3339 in UTC, durations seconds, sizes bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Literal, Optional, Union

from venvd_contract.errors import InvalidRequest

BACKEND_TYPES = ("http", "pipe", "rpc")
UPDATES = ("manual", "rolling")
QUEUE_LIMIT = 1000
"""The default limit on waiting calls of one session."""
MOST_QUEUED = 1_000_000
LONGEST_LEASE = 365 * 86400.0
"""Seconds."""
MOST_REPLICAS = 32
DRAIN_TIMEOUT = 300.0
"""The default of `drainTimeout`, in seconds."""
LONGEST_DRAIN = 86_400.0
ROTATION_OVERLAP = 300.0
LONGEST_OVERLAP = 7 * 86400
"""Seconds in which the older token is accepted after a rotation."""

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"3\.\d{1,2}(\.\d{1,2}((a|b|rc)\d{1,2})?)?")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it is a DNS label.

    Raises:
        InvalidRequest: it is not; the message says what a DNS label is.
    """
    if not _DNS_LABEL.fullmatch(name):
        raise InvalidRequest(
            f'"{name[:80]}" is no name for a {kind}: 1 to 63 lower-case letters, digits and hyphens, '
            "a letter or digit first and last"
        )
    return name


def check_version(version: str) -> str:
    """Return `version` if it is a version of CPython, such as `3.13` or `3.13.5`.

    Raises:
        InvalidRequest: it is not.
    """
    if not isinstance(version, str):  # 3.10 is 3.1 as a number
        raise InvalidRequest(f'a version of CPython is text in quotes, such as "3.13", not {version!r}')
    if not _VERSION.fullmatch(version):
        raise InvalidRequest(f'"{version[:40]}" is no version of CPython: write it as 3.13 or 3.13.5')
    return version


# ---- runtimes and venvs ----------------------------------------------------------------------------------------


@dataclass
class Runtime:
    version: str
    """The requested version."""
    state: str
    """`pending`, `building`, `ready` or `failed`."""
    default: bool
    createdAt: str
    resolvedVersion: Optional[str] = None
    base: Optional[str] = None
    """The base image by digest or ID, or the interpreter's path."""
    error: Optional[str] = None
    operation: Optional[str] = None


@dataclass
class VenvSpec:
    python: Optional[str] = None
    """A runtime's version; null is the default runtime."""
    requirements: List[str] = field(default_factory=list)
    aptPackages: List[str] = field(default_factory=list)
    preload: List[str] = field(default_factory=list)
    """Modules imported before the first session."""
    network: Union[bool, Literal["loopback"], List[str]] = False
    """What user code of its backends may reach: nothing, with `true` the network, with `loopback` a loopback of its
    own, or a list of destinations such as `example.com`, `example.com:8080` and `*.example.com`.
    """
    ociRuntime: Optional[str] = None
    """The OCI runtime of the worker hosts of its backends, such as `runsc`; null is that of the controller."""
    env: Dict[str, str] = field(default_factory=dict)
    labels: Dict[str, str] = field(default_factory=dict)
    server: Dict[str, Any] = field(default_factory=dict)
    """Settings of the servers of its backends; see `venvd_contract.server_settings`."""
    constraints: List[str] = field(default_factory=list)
    """Versions that packages must have if they are installed at all."""
    lock: Optional[str] = None
    """A requirements file with pinned versions and hashes, which the build installs unchanged; null resolves one."""
    pyproject: Optional[str] = None
    """The text of a pyproject.toml. The controller adds its dependencies to `requirements`, and stores only them and
    `requiresPython`.
    """
    requiresPython: Optional[str] = None
    """The allowed versions of Python, such as `>=3.11`. The default comes from `pyproject`."""
    extras: List[str] = field(default_factory=list)
    """Extras of `pyproject`."""
    groups: List[str] = field(default_factory=list)
    """Dependency groups of `pyproject`."""
    checks: List[str] = field(default_factory=list)
    """Modules that must be importable in the built venv before it is accepted."""
    path: Optional[str] = None
    """A virtual environment on the host, which venvd uses and never changes (engine `local`). It replaces `python`,
    `requirements` and all other fields that install something.
    """
    dotnet: bool = False
    """Whether it has Python.NET and a .NET runtime."""
    assemblies: Optional[str] = None
    """A directory of the host with .NET assemblies, which sessions reference when they import `clr`. It needs `dotnet`.
    """


@dataclass
class Venv:
    name: str
    state: str
    spec: VenvSpec
    createdAt: str
    updatedAt: str
    python: Optional[str] = None
    """The exact version, once built."""
    key: Optional[str] = None
    """The content address of its image."""
    image: Optional[str] = None
    error: Optional[str] = None
    operation: Optional[str] = None


@dataclass
class VenvChange:
    venv: Venv
    operation: Optional[OperationInfo] = None
    """Null if nothing changes."""


@dataclass
class ProviderSpec:
    """The needs of the venvs of a provider."""

    requirements: List[str] = field(default_factory=list)
    aptPackages: List[str] = field(default_factory=list)
    python: Optional[str] = None
    """The runtime of a new venv whose request names none; null is the default runtime."""


@dataclass
class Provider:
    name: str
    spec: ProviderSpec
    createdAt: str
    updatedAt: str


@dataclass
class Package:
    name: str
    version: str


# ---- backends --------------------------------------------------------------------------------------------------


@dataclass
class BackendLimits:
    """Limits of a backend's worker host; null keeps the controller's default."""

    memoryBytes: Optional[int] = None
    cpus: Optional[float] = None
    processes: Optional[int] = None


@dataclass
class BackendSpec:
    type: str
    """`http`, `pipe` or `rpc`."""
    venv: str = "default"
    name: Optional[str] = None
    """The default is made from venv and type."""
    port: Optional[int] = None
    """The default is the usual port of the type if it is free, else the next free one."""
    httpPort: Optional[int] = None
    """Type `rpc`: the port of `/health`, `/metrics` and `/rpc/…`. The default is 8081 or the next free one."""
    host: str = "127.0.0.1"
    """The address to publish on."""
    socketDir: Optional[str] = None
    """Type `pipe`: the directory of its sockets, directly below the run directory, by name or path; null is a short
    hash of the backend's name. It must be absent or empty: it comes and goes with the backend.
    """
    pipeName: Optional[str] = None
    """Type `pipe`: the name by which .NET also finds the socket, as `CoreFxPipe_NAME` in the temporary directory."""
    limits: BackendLimits = field(default_factory=BackendLimits)
    network: Union[bool, Literal["loopback"], List[str], None] = None
    """What user code may reach, as for a venv. The default is that of the venv."""
    ociRuntime: Optional[str] = None
    """The OCI runtime of its worker host, such as `runsc`; null is that of the venv."""
    token: bool = True
    """False serves without a token, which is only allowed on loopback and on sockets."""
    env: Dict[str, str] = field(default_factory=dict)
    labels: Dict[str, str] = field(default_factory=dict)
    timeout: Optional[float] = None
    """Timeout of calls without one of their own, in seconds. The default is 300."""
    server: Dict[str, Any] = field(default_factory=dict)
    """Settings of its server, such as `{"maxSessions": 8}`; each overrides that of the venv."""
    queueLimit: Optional[int] = None
    """How many calls may wait in one session; a further one is refused with `busy`. The default is `QUEUE_LIMIT`."""
    handleLease: Optional[float] = None
    """Seconds after which an unused handle is freed if the call that made it named no lease. The default is never."""
    allowedHosts: List[str] = field(default_factory=list)
    """Names beside its own under which browsers may reach a backend without a token; `*.example.com` is any below."""
    allowedOrigins: List[str] = field(default_factory=list)
    """Origins of the web pages that may send requests, such as `https://app.example.com`."""
    manages: List[str] = field(default_factory=list)
    """Names of venvs that its sessions may create, change, use and delete; `*` stands for any text. Admins set it."""
    update: str = "manual"
    """`rolling`: the controller replaces outdated backends of a venv one after the other, each when its successor is
    ready. `manual`: it does not.
    """
    ttl: Optional[float] = None
    """Seconds after its creation at which the controller removes it. The default is never; no manifest may set it."""
    replicas: int = 1
    """The number of replicas; each session belongs to one of them."""
    minReplicas: Optional[int] = None
    """With `maxReplicas`: the least number of replicas. The default is 1."""
    maxReplicas: Optional[int] = None
    """The most replicas. With it, the controller chooses their number by sessions and waiting calls; the default is the
    fixed number `replicas`.
    """
    sessionsPerReplica: Optional[int] = None
    """With `maxReplicas`: the controller adds a replica when the others have more sessions than this. The default is
    three quarters of `maxSessions` of its server.
    """
    idleStop: Optional[float] = None
    """Seconds without a call after which its replicas end. A call to its router starts them again, without the state of
    their sessions. The default is never.
    """
    drainTimeout: Optional[float] = None
    """Seconds that a replica keeps its sessions before it is removed. The default is `DRAIN_TIMEOUT`."""


@dataclass
class Walls:
    """The walls around user code, as the worker host reports them."""

    landlock: int = 0
    """The version of Landlock between sessions; 0 for none."""
    callFilter: bool = False
    """Whether sessions run under the filter of system calls."""
    networkSockets: bool = True
    """Whether that filter lets sessions make network sockets."""
    kernel: str = ""
    """The release of the worker host's kernel, such as `6.12.9` or, under gVisor, `4.19.0-gvisor`."""
    namespaces: bool = False
    """Whether each session has namespaces of its own, as under gVisor, which has no Landlock."""
    ociRuntime: Optional[str] = None
    """The OCI runtime of the worker host; null if it is not a container."""


@dataclass
class Replica:
    number: int
    """IDs of its sessions begin with this."""
    state: str
    url: Optional[str] = None
    httpUrl: Optional[str] = None
    sessions: Optional[int] = None
    """The number of its sessions when the controller last asked; null if it gave no answer."""
    draining: bool = False
    """Whether it takes no new sessions. The controller removes it after its last session, or after `drainTimeout`."""
    startedAt: Optional[str] = None
    restarts: int = 0
    error: Optional[str] = None


@dataclass
class Backend:
    name: str
    type: str
    venv: str
    state: str
    """`pending`, `starting`, `running`, `idle`, `unhealthy`, `stopping` or `failed`."""
    spec: BackendSpec
    engine: str
    createdAt: str
    url: Optional[str] = None
    httpUrl: Optional[str] = None
    """Type `rpc`: the address of its HTTP port."""
    token: Optional[str] = None
    """Shown only to callers that may use the backend."""
    python: Optional[str] = None
    key: Optional[str] = None
    startedAt: Optional[str] = None
    restarts: int = 0
    """How often the controller restarted it after it had ended."""
    error: Optional[str] = None
    operation: Optional[str] = None
    walls: Optional[Walls] = None
    """The report of its worker host when it became ready; null before."""
    outdated: bool = False
    """Whether a restart would give it a newer build of its venv or a newer server."""
    updating: bool = False
    """Whether an update is replacing its launches, one after the other, each when its successor is ready."""
    expiresAt: Optional[str] = None
    """When its `ttl` ends."""
    replicas: List[Replica] = field(default_factory=list)
    """All replicas of a backend that has several; the fields beside this one are those of replica 0."""


@dataclass
class BackendStart:
    backend: Backend
    operation: OperationInfo


@dataclass
class ScaleSpec:
    """How many replicas a backend should have."""

    replicas: int


@dataclass
class PodManifest:
    """A pipe backend in the pod of its client, on Kubernetes. The controller keeps nothing of it."""

    name: str
    """The name of the Pod and of its Secret."""
    venv: str
    url: str
    """The address of the backend in the container of the client."""
    manifest: str
    """YAML for `kubectl apply`."""


@dataclass
class RotationSpec:
    overlap: float = ROTATION_OVERLAP
    """Seconds in which older tokens are still accepted; 0 ends them at once."""


@dataclass
class TokenRotation:
    backend: str
    token: str
    """The new one."""
    previousEndsAt: str
    """When all tokens before it end."""


@dataclass
class AdminTokenRotation:
    token: str
    """The new one of the controller's home."""
    previousEndsAt: str
    """When all tokens before it end."""


@dataclass
class LogLine:
    time: str
    source: str
    """`server` or `worker`."""
    stream: str
    """`stdout` or `stderr`."""
    text: str


# ---- operations ------------------------------------------------------------------------------------------------


@dataclass
class Phase:
    name: str
    startedAt: str
    endedAt: Optional[str] = None


@dataclass
class OperationInfo:
    id: str
    kind: str
    """`runtime.init`, `venv.build` or `backend.start`."""
    target: str
    state: str
    """`queued`, `running`, `succeeded`, `failed` or `cancelled`."""
    createdAt: str
    startedAt: Optional[str] = None
    endedAt: Optional[str] = None
    phases: List[Phase] = field(default_factory=list)
    error: Optional[Dict[str, Any]] = None
    """Problem details."""


@dataclass
class Event:
    """One event in the stream of an operation's server-sent events.

    `kind` is the event's name: `phase` (data: the phase's name), `log` (a line), `progress` (a text that replaces the
    last one) or `done` (data: the `OperationInfo`). `id` counts from 1; a client that reconnects sends the last one as
    `Last-Event-ID`.
    """

    id: int
    kind: str
    data: Any


# ---- leftovers -------------------------------------------------------------------------------------------------


@dataclass
class Leftover:
    """An unused object that a home keeps."""

    kind: str
    """`venv` and `server` (images), `unused venv` (one with a made-up name), `worker` (a version of the worker
    archive), `tools` and `cache` (of builds).
    """
    name: str
    """ID of the image or volume, or path of the file or directory."""
    current: bool
    """Whether the next build or start would use it, and would otherwise make it again."""
    sizeBytes: Optional[int] = None
    """Its size, including layers that images share; null if the engine does not know."""


@dataclass
class LeftoverList:
    items: List[Leftover]


# ---- the controller itself -------------------------------------------------------------------------------------


@dataclass
class Page:
    items: List[Any]
    next: Optional[str] = None
    """Pass it as `?after=` for the next page."""


@dataclass
class ControllerStatus:
    version: str
    engine: str
    engineReason: str
    """Why this engine was chosen."""
    home: str
    runtimes: int
    venvs: int
    backends: Dict[str, int]
    """Number of backends in each state."""
    operations: Dict[str, int]
    manifest: Optional[str] = None
    """The path of the manifest in force, if there is one."""
    gaps: List[str] = field(default_factory=list)
    """Attacks and faults that the engine does not prevent, one sentence each."""


@dataclass
class Setting:
    name: str
    """The environment variable that sets it."""
    value: Any
    source: str
    """`default`, `environment` or `file`."""
    variable: Optional[str] = None
    """The environment variable that gave the value; it may differ from `name`, such as `SSL_CERT_FILE`."""
    description: Optional[str] = None
    """Its meaning, with the words of docs/settings.md."""


@dataclass
class ConfigReport:
    settings: List[Setting]
    unsafe: List[str]
    """Guards that are off, which a setting or a specification can turn on."""
    missing: List[str]
    gaps: List[str] = field(default_factory=list)
    """Attacks and faults that the engine or this machine does not prevent, with any settings."""
