"""The messages of the control connection. Field names are those of the JSON; absent fields take their defaults.

The server sends commands. The warden answers each once, and sends events at any time. Its answer to a failed command is
a message and a code of `venvd_contract.errors`.

| command | `data` | descriptors | result |
|---|---|---|---|
| `hello` | `Hello` | the memfd of the slots | `Greeting` |
| `start` | `Start` | the session's ends of its stream and of its supply of segments | `Started` |
| `assign` | `Assign` | | `{}`, at once |
| `interrupt` | `Interrupt` | | `{}`, at once |
| `kill` | `Kill` | | `{}`, once the session's whole process tree is gone |
| `attach` | `Attach` | a client's socket, and a memfd with the bytes read from it | `{}`, once it is passed on |
| `file` | `TransferFile` | one end of a stream socketpair | `Started`; a file process serves the connection |
| `stats` | | | `Stats` |

| event | `data` |
|---|---|
| `join` | `Join`: the warden's first packet |
| `up` | `Up`: a session takes requests |
| `exited` | `Exited`: a session's process ended and its tree is gone |
| `refused` | `Refused`: a session had no room for a direct client |
| `zygote` | `ZygoteReport`: the zygote became ready or failed |

User code can write anything that a session sends. So the warden limits what it passes on, and the server checks it
again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Type, TypeVar

from venvd_contract.errors import InvalidRequest
from venvd_contract.fields import check_fields, list_fields

_Message = TypeVar("_Message")


# ---- commands


@dataclass
class Hello:
    """The first command.

    Attributes:
        grace: the default of `Interrupt`, in seconds.
        spin: microseconds that a session may wait without sleep for the next call; 0 for none.
    """

    protocol: int
    slots: int
    grace: float = 2.0
    spin: int = 0


@dataclass
class Start:
    """Start the process of a session in the slot with this index.

    Attributes:
        limits: fields of `Limits`; null is none.
        lease: the default lease of handles, in seconds; 0 for none.
        compat: whether its calls may have the forms of older .NET clients.
        standby: whether it waits for `assign` before any user code runs.
        cwd: the directory in which its code runs, relative to its working directory or absolute.
    """

    session: str
    slot: int
    limits: Dict[str, Any] = field(default_factory=dict)
    env: Dict[str, str] = field(default_factory=dict)
    lease: float = 0.0
    compat: bool = False
    standby: bool = False
    cwd: str = ""


@dataclass
class Assign:
    """Name a session that started as a standby; from now on the warden watches its limits."""

    session: str
    name: str


@dataclass
class Interrupt:
    """Stop the call with this sequence number; kill the tree if the slot still shows it running after `grace` seconds.

    `reason` is `timeout` or `cancelled`.
    """

    session: str
    sequence: int
    reason: str
    grace: Optional[float] = None


@dataclass
class Kill:
    """Kill the whole tree; `Exited` then contains `reason`, and `idle` is a reason of its own."""

    session: str
    reason: str = "no reason given"


@dataclass
class Attach:
    """Pass a client's connection on to the session; `terms` are the fields of `control.AttachTerms`."""

    session: str
    terms: Dict[str, Any]


@dataclass
class OpenVenvs:
    """Give the session a socket for requests about venvs, and the source of the module `venvd_host` that uses it."""

    session: str
    source: str


@dataclass
class TransferFile:
    """Run `file.get`, `file.put`, `file.list` or `file.delete` in the session's directory.

    Attributes:
        largest: bytes that a stored file may have.
        timeout: seconds for all of it.
    """

    session: str
    command: str
    largest: int
    payload: Any = None
    timeout: float = 24 * 3600.0


@dataclass
class GetStats:
    """Measure every session's process tree; slow."""


COMMANDS: Dict[str, Type[Any]] = {
    "hello": Hello,
    "start": Start,
    "assign": Assign,
    "interrupt": Interrupt,
    "kill": Kill,
    "attach": Attach,
    "venvs": OpenVenvs,
    "file": TransferFile,
    "stats": GetStats,
}
NAMES: Dict[Type[Any], str] = {kind: name for name, kind in COMMANDS.items()}
_FIELDS = {kind: list_fields(kind) for kind in NAMES}


def parse(kind: Type[_Message], data: Any) -> _Message:
    """Check the `data` of a command.

    Raises:
        InvalidRequest: a field is missing or has the wrong type, or a number is negative; the message says which.
    """
    values = check_fields(NAMES[kind], _FIELDS[kind], {} if data is None else data)
    for name, value in values.items():
        if type(value) in (int, float) and not 0 <= value < float("inf"):
            raise InvalidRequest('{}: the field "{}" takes a number from 0 on'.format(NAMES[kind], name))
    return kind(**values)


# ---- results and events


@dataclass
class PreloadedModule:
    """A module that the zygote imported, or the error that its import raised."""

    module: str = ""
    seconds: float = 0.0
    error: Optional[str] = None


@dataclass
class ZygoteReport:
    """The state of the zygote: `starting`, `ready`, `failed` or `off`; `why` says what is wrong."""

    state: str = "off"
    why: str = ""
    preload: List[PreloadedModule] = field(default_factory=list)
    pid: Optional[int] = None


WALLS_PATH = "/walls"
"""The path beside the probes at which the controller gets the `WallsReport` of the worker host."""


@dataclass
class WallsReport:
    """The walls between the sessions of this worker host.

    Attributes:
        landlock: the version of Landlock in force; 0 for none.
        callFilter: whether sessions run under the filter of system calls.
        networkSockets: whether that filter lets sessions make network sockets.
        kernel: the release of the worker host's kernel.
        namespaces: whether each session has namespaces of its own.
    """

    landlock: int = 0
    callFilter: bool = False
    networkSockets: bool = True
    kernel: str = ""
    namespaces: bool = False


LOAD_PATH = "/load"
"""The path at which the controller and the router get a `LoadReport`."""


@dataclass
class LoadReport:
    """The load of a server.

    Attributes:
        sessions: the number of sessions, including the one that always exists.
        most: the limit on sessions.
        busy: the number of sessions with a running call.
        queued: the number of waiting calls.
        idleSeconds: seconds since the end of the last call; 0 during a call.
        left: the IDs of the sessions that clients created; set after an update has replaced the server.
    """

    sessions: int = 0
    most: int = 0
    busy: int = 0
    queued: int = 0
    idleSeconds: float = 0.0
    left: Optional[List[str]] = None


@dataclass
class RouterLoad:
    """The load of a router, which the controller gets at `LOAD_PATH`.

    Attributes:
        calls: the number of calls that pass through or wait.
        waiting: the number of calls that wait because no replica has an address.
        reachable: the number of replicas with an address, which new calls may reach.
        idleSeconds: seconds since the end of the last call; 0 during a call.
    """

    calls: int = 0
    waiting: int = 0
    reachable: int = 0
    idleSeconds: float = 0.0


@dataclass
class Greeting:
    """The result of `hello`: the worker's version, its Python, and the warden's process."""

    worker: str = "unknown"
    python: str = "unknown"
    pid: int = 0
    startedAt: Optional[str] = None
    attach: bool = False
    zygote: ZygoteReport = field(default_factory=ZygoteReport)
    walls: WallsReport = field(default_factory=WallsReport)


@dataclass
class Started:
    """The result of `start` and `file`; `forked` says that the session is a fork of the zygote."""

    pid: int
    forked: bool = False


@dataclass
class SessionUsage:
    """The usage of a session's process tree; proportional memory divides shared pages among their users."""

    rssBytes: int = 0
    pssBytes: int = 0
    cpuSeconds: float = 0.0
    processes: int = 0


@dataclass
class ProcessUsage:
    """The usage of one process; only the warden reports `descriptors`."""

    rssBytes: int = 0
    descriptors: int = 0


@dataclass
class Stats:
    """The result of `stats`; `sessions` are by name."""

    sessions: Dict[str, SessionUsage] = field(default_factory=dict)
    warden: ProcessUsage = field(default_factory=ProcessUsage)
    zygote: ProcessUsage = field(default_factory=ProcessUsage)


@dataclass
class Join:
    """The secret that the server left in the channel."""

    secret: str


@dataclass
class Up:
    session: str
    pid: int = 0


@dataclass
class Exited:
    """How a session's process ended.

    Attributes:
        how: a sentence without its subject: "was killed by signal 11 (SIGSEGV)".
        reason: `exit`, `signal`, `memory`, `cpu`, `processes`, `interrupt` (killed after the grace), `kill` or `idle`.
    """

    session: str
    pid: int = 0
    how: str = "ended"
    reason: str = "exit"
    exitCode: Optional[int] = None
    signal: Optional[int] = None


@dataclass
class Refused:
    """A session could not take the direct client with this connection number."""

    session: str
    connection: int
    why: str = ""


EVENTS: Dict[str, Type[Any]] = {
    "join": Join,
    "up": Up,
    "exited": Exited,
    "refused": Refused,
    "zygote": ZygoteReport,
}
