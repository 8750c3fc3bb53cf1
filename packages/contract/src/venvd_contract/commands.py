"""The commands of a backend, declared once: names over each transport, request, response, and who answers.

The three backends translate from this table, the worker checks requests against it, and the client and the schemas take
their models from it. Field names are those on the wire, in camelCase.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Tuple, Type

from venvd_contract.background import CallGetRequest, CallInfo, CallStarted, CallStartRequest, CancelRequest
from venvd_contract.fields import Field, check_fields, list_fields
from venvd_contract.files import (
    FileDeleteRequest,
    FileGetRequest,
    FileInfo,
    FileList,
    FileListRequest,
    FilePutRequest,
)
from venvd_contract.session_requests import AttachRequest, Limits, SessionCreateRequest, SessionRequest
from venvd_contract.suggestions import check_names

# ---- requests --------------------------------------------------------------------------------------------------


@dataclass
class Nothing:
    """A request without fields."""


@dataclass
class ImportRequest:
    moduleName: str
    """Dotted name of the module."""


@dataclass
class CreateRequest:
    moduleHandleId: str
    className: str
    """Name of a class or another callable in the module, with dots for nested names."""
    args: List[Any] = field(default_factory=list)
    kwargs: Dict[str, Any] = field(default_factory=dict)


@dataclass
class CallRequest:
    handleId: str
    methodName: str
    """`__call__` calls the object itself."""
    args: List[Any] = field(default_factory=list)
    kwargs: Dict[str, Any] = field(default_factory=dict)
    asHandle: Optional[bool] = None
    """Whether the result is a handle also where it is plain data."""


@dataclass
class GetAttributeRequest:
    handleId: str
    attributeName: str
    asHandle: Optional[bool] = None
    """Whether the result is a handle also where it is plain data."""


@dataclass
class SetAttributeRequest:
    handleId: str
    attributeName: str
    value: Any = None


@dataclass
class EvaluateRequest:
    expression: Optional[str] = None
    """Any code. With several statements, the result is the last expression's value, or null."""
    code: Optional[str] = None
    """Another name for `expression`."""
    locals: Dict[str, Any] = field(default_factory=dict)
    """Names that the code sees in addition to those of the session."""
    env: Dict[str, str] = field(default_factory=dict)
    """Environment variables of the session's process while the code runs; afterwards they are as before."""
    asHandle: Optional[bool] = None
    """Whether the result is a handle also where it is plain data."""


@dataclass
class ExecuteRequest:
    code: str
    locals: Dict[str, Any] = field(default_factory=dict)
    """Names that the code sees in addition to those of the session."""
    env: Dict[str, str] = field(default_factory=dict)
    """Environment variables of the session's process while the code runs; afterwards they are as before."""


@dataclass
class DisposeRequest:
    handleId: Optional[str] = None
    handleIds: Optional[List[str]] = None


@dataclass
class HandleRequest:
    handleId: str


@dataclass
class WrapRequest:
    value: Any = None


@dataclass
class ArrayGetRequest:
    handleId: str
    format: Optional[str] = None
    """`arrow` for a table as an Arrow IPC stream; null for an array."""
    shm: Optional[bool] = None
    """Whether the peer can map memory that it receives as a descriptor."""
    release: Optional[List[str]] = None
    """Segments of earlier replies that the peer is done with."""


@dataclass
class ArrayPutRequest:
    dtype: str
    """In numpy's notation, such as `<f8`."""
    shape: List[int]
    order: str = "C"
    format: Optional[str] = None
    """`arrow` if the bytes are a table as an Arrow IPC stream; dtype and shape then give their number."""
    into: Optional[str] = None
    """The type that a table gets: `table` (pyarrow's), `pandas` or `polars`."""
    shm: Optional[bool] = None
    """Requests a segment, for the bytes of the array."""
    segment: Optional[str] = None
    """The segment that holds the bytes."""
    release: Optional[List[str]] = None
    """Segments of earlier replies that the peer is done with."""


@dataclass
class ArrayReleaseRequest:
    segments: List[str]


# ---- responses -------------------------------------------------------------------------------------------------


@dataclass
class Status:
    status: str = "ok"


@dataclass
class Handle:
    handleId: str
    typeName: str
    callable: Optional[bool] = None
    """Whether the object can be called."""


@dataclass
class Result:
    """Plain data in `value`; any other object as a handle."""

    value: Any = None
    isHandle: Optional[bool] = None
    handleId: Optional[str] = None
    typeName: Optional[str] = None
    callable: Optional[bool] = None
    """Whether the object can be called."""
    repr: Optional[str] = None


@dataclass
class Array:
    """The description of bytes that follow the line or are in a segment."""

    dtype: str
    shape: List[int]
    order: str
    format: Optional[str] = None
    """`arrow` if the bytes are a table as an Arrow IPC stream."""
    into: Optional[str] = None
    segment: Optional[str] = None
    """Name of the segment. It belongs to the peer until the peer releases it."""
    size: Optional[int] = None
    """Bytes of the whole segment; the array is at its beginning."""
    gone: Optional[List[str]] = None
    """Segments that are never used again; the peer can unmap them."""


@dataclass
class ExecutionError:
    errorType: str
    message: str
    traceback: str
    exception: Optional[Dict[str, Any]] = None
    """More about the exception: `bases`, `args`, `notes`, `cause` and others."""


@dataclass
class Output:
    stdout: str
    stderr: str
    display: List[Dict[str, Any]]
    """MIME bundles, in the order in which they were displayed."""
    result: Any
    """As in `Result`: the last expression's value, or null."""
    error: Optional[ExecutionError]
    durationMs: float
    truncated: bool
    """True if output beyond the limit was dropped."""
    executionCount: int = 0
    """The number of this `exec` among those of its session, from 1."""
    resultText: Optional[str] = None
    """The repr of the value, at most 1,000 characters of it, or null."""


@dataclass
class Success:
    success: bool = True


@dataclass
class Available:
    available: bool


@dataclass
class SessionInfo:
    id: str
    name: Optional[str]
    state: str
    """`idle`, `busy` or `starting`."""
    createdAt: str
    limits: Limits
    idleTimeout: Optional[float]
    queued: int
    calls: int
    handles: int
    restarts: int
    lifetime: Optional[float] = None
    """Seconds after `createdAt` at which the session ends."""
    cwd: Optional[str] = None
    """The directory in which its code runs, if it is not the working directory."""


@dataclass
class SessionList:
    sessions: List[SessionInfo]


@dataclass
class HandleInfo:
    handleId: str
    typeName: str
    sizeBytes: int
    ageSeconds: float
    leaseSeconds: Optional[float] = None
    """Seconds until the session frees the unused handle; absent without a lease. They do not pass during a call."""


@dataclass
class HandleList:
    handles: List[HandleInfo]


# ---- the table -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """One command over every transport.

    Attributes:
        name: its name over the pipe and inside venvd.
        rpc: its gRPC service and method.
        http: its HTTP method and path.
        request: a dataclass of this module.
        response: a dataclass of this module, or a type of plain data.
        served_by: `session` if a session's process answers, `server` if the server does.
        open: whether it needs no token.
    """

    name: str
    rpc: str
    http: Tuple[str, str]
    request: Type[Any]
    response: Any
    served_by: str = "session"
    open: bool = False
    summary: str = ""


_PYTHON = "PythonService/"
_SESSIONS = "SessionService/"

COMMANDS: Tuple[Command, ...] = (
    Command("ping", _PYTHON + "Health", ("GET", "/health"), Nothing, Status, "server", True, "Whether the server answers"),
    Command("import", _PYTHON + "ImportModule", ("POST", "/api/import"), ImportRequest, Handle, summary="Import a module"),
    Command("create", _PYTHON + "CreateObject", ("POST", "/api/create"), CreateRequest, Handle, summary="Create an object"),
    Command("call", _PYTHON + "CallMethod", ("POST", "/api/call"), CallRequest, Result, summary="Call a method"),
    Command("getattr", _PYTHON + "GetAttribute", ("POST", "/api/getattr"), GetAttributeRequest, Result, summary="Get an attribute"),
    Command("setattr", _PYTHON + "SetAttribute", ("POST", "/api/setattr"), SetAttributeRequest, Success, summary="Set an attribute"),
    Command("eval", _PYTHON + "Evaluate", ("POST", "/api/eval"), EvaluateRequest, Result, summary="Evaluate code"),
    Command("exec", _PYTHON + "Execute", ("POST", "/api/exec"), ExecuteRequest, Output, summary="Execute code, with its output"),
    Command("dispose", _PYTHON + "DisposeHandle", ("POST", "/api/dispose"), DisposeRequest, Success, summary="Dispose of handles"),
    Command("tofloatarray", _PYTHON + "ToFloatArray", ("POST", "/api/tofloatarray"), HandleRequest, List[Optional[float]], summary="Convert an object to an array of floats"),
    Command("tofloatarray2d", _PYTHON + "ToFloatArray2D", ("POST", "/api/tofloatarray2d"), HandleRequest, List[List[Optional[float]]], summary="Convert an object to rows of floats"),
    Command("module_available", _PYTHON + "IsModuleAvailable", ("POST", "/api/module-available"), ImportRequest, Available, summary="Find out whether a module can be imported"),
    Command("wrap", _PYTHON + "WrapValue", ("POST", "/api/wrap"), WrapRequest, Handle, summary="Put a value behind a handle"),
    Command("handles", _PYTHON + "ListHandles", ("GET", "/v1/handles"), Nothing, HandleList, summary="List handles"),
    Command("call.start", _PYTHON + "StartCall", ("POST", "/v1/calls"), CallStartRequest, CallStarted, "server", summary="Start a call that is fetched later"),
    Command("call.get", _PYTHON + "GetCall", ("GET", "/v1/calls/{id}"), CallGetRequest, CallInfo, "server", summary="Return the state and the result of a call"),
    Command("cancel", _PYTHON + "CancelCall", ("DELETE", "/v1/calls/{id}"), CancelRequest, Success, "server", summary="Cancel a call"),
    Command("file.get", _PYTHON + "GetFile", ("GET", "/v1/sessions/{id}/files/{path}"), FileGetRequest, FileInfo, "server", summary="Fetch a file of the working directory"),
    Command("file.put", _PYTHON + "PutFile", ("PUT", "/v1/sessions/{id}/files/{path}"), FilePutRequest, FileInfo, "server", summary="Send a file into the working directory"),
    Command("file.list", _PYTHON + "ListFiles", ("GET", "/v1/sessions/{id}/files"), FileListRequest, FileList, "server", summary="List files of the working directory"),
    Command("file.delete", _PYTHON + "DeleteFile", ("DELETE", "/v1/sessions/{id}/files/{path}"), FileDeleteRequest, Success, "server", summary="Delete a file of the working directory"),
    Command("session.create", _SESSIONS + "CreateSession", ("POST", "/v1/sessions"), SessionCreateRequest, SessionInfo, "server", summary="Create a session"),
    Command("session.list", _SESSIONS + "ListSessions", ("GET", "/v1/sessions"), Nothing, SessionList, "server", summary="List sessions"),
    Command("session.get", _SESSIONS + "GetSession", ("GET", "/v1/sessions/{id}"), SessionRequest, SessionInfo, "server", summary="Return a session"),
    Command("session.delete", _SESSIONS + "DeleteSession", ("DELETE", "/v1/sessions/{id}"), SessionRequest, Success, "server", summary="End a session"),
    Command("session.interrupt", _SESSIONS + "InterruptSession", ("POST", "/v1/sessions/{id}/interrupt"), SessionRequest, Success, "server", summary="Interrupt the running call"),
    Command("session.reset", _SESSIONS + "ResetSession", ("POST", "/v1/sessions/{id}/reset"), SessionRequest, SessionInfo, "server", summary="Start a session afresh"),
)  # fmt: skip

STREAMED: Tuple[Command, ...] = (
    Command("array.get", _PYTHON + "GetArray", ("GET", "/api/array"), ArrayGetRequest, Array, summary="Fetch an array"),
    Command("array.put", _PYTHON + "PutArray", ("PUT", "/api/array"), ArrayPutRequest, Handle, summary="Send an array"),
)  # fmt: skip
"""Commands with more than JSON in a request or reply. Each transport carries the bytes in its own way."""

ARRAY_RELEASE = Command("array.release", "", ("", ""), ArrayReleaseRequest, Success, summary="Release shared memory")
"""Commands of the pipe only, because no other transport shares memory."""

BY_NAME: Dict[str, Command] = {command.name: command for command in COMMANDS}

SESSION_COMMANDS: FrozenSet[str] = frozenset(command.name for command in COMMANDS if command.served_by == "session")

ATTACH = "session.attach"
"""The first line of a pipe connection that becomes direct: takes an `AttachRequest` and returns a `SessionInfo`.

It is in no table, because it is no call. Other transports answer it with `not_implemented`.
"""

PIPES = "session.pipes"
"""The first line of a direct connection that uses two pipes from then on; not a call either.

The answer comes with two descriptors: one to write requests to, and one to read replies from.
"""


# ---- checking requests -----------------------------------------------------------------------------------------

_CHECKS: Dict[str, Tuple[Field, ...]] = {
    command.name: list_fields(command.request) for command in (*COMMANDS, *STREAMED, ARRAY_RELEASE)
}
_CHECKS[ATTACH] = list_fields(AttachRequest)


class _Shape(NamedTuple):
    """The usual form of a command's payload: only declared fields, of types that need no further check."""

    types: Dict[str, type]
    required: FrozenSet[str]
    defaults: Dict[str, Any]


def _shape(specs: Tuple[Field, ...]) -> _Shape:
    return _Shape(
        {spec.name: spec.kind for spec in specs if spec.kind is not None and spec.items is None},
        frozenset(spec.name for spec in specs if spec.required),
        {spec.name: spec.default() for spec in specs if not spec.required},
    )


_SHAPES: Dict[str, _Shape] = {command: _shape(specs) for command, specs in _CHECKS.items()}

_OLDER_FIELDS = frozenset({"returnType", "typeName", "isValid"})
"""Fields that older .NET clients send beside the declared ones; they are dropped."""


def check_payload(command: str, payload: Any) -> Dict[str, Any]:
    """Check a payload, and return it with every declared field: absent and null become the default.

    The caller must not change the values, because defaults are shared.

    Raises:
        InvalidRequest: the payload is not an object, or a field is unknown, missing or of the wrong type. The message
            names the field.
    """
    if type(payload) is dict:
        types, required, defaults = _SHAPES[command]
        for name, value in payload.items():
            if type(value) is not types.get(name):
                break
        else:
            if not required or required <= payload.keys():
                return {**defaults, **payload}
        known = [spec.name for spec in _CHECKS[command]]
        check_names((name for name in payload if name not in _OLDER_FIELDS), known, "{}: the field".format(command))
    return check_fields(command, _CHECKS[command], {} if payload is None else payload)
