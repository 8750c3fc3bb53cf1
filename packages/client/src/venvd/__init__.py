"""Python services from a version and a requirements list.

Start a backend, and stop it at the end of the block::

    import venvd

    with venvd.backend(requirements=["numpy"]) as b:
        np = b.import_module("numpy")
        print(np.arange(10).sum())
        numbers = b.eval("[1, 2]", proxy=True)  # a proxy; otherwise plain data comes as a copy
        numbers.append(3)

Connect to a backend that runs already::

    b = venvd.connect("http://127.0.0.1:5678", token="…")

For asyncio, use `backend_async`, `connect_async` and `AsyncController`. `venvd.errors` documents the errors.
Modules whose names begin with an underscore are not part of the API.
"""

from venvd._async.backend import AsyncBackend, AsyncSession, connect_async
from venvd._async.background import AsyncRemoteCall
from venvd._async.controller import AsyncController
from venvd._async.temporary_backend import backend_async
from venvd._async_proxy import AsyncRemoteCallable, AsyncRemoteObject
from venvd._output import Output
from venvd._proxy import RemoteCallable, RemoteObject, handle_id, type_name
from venvd._sync.backend import Backend, Session, connect
from venvd._sync.background import RemoteCall
from venvd._sync.controller import Controller
from venvd._sync.temporary_backend import backend
from venvd._transports.base import NO_DEADLINE, Event
from venvd.errors import (
    BadReply,
    Busy,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    HandleNotFound,
    Internal,
    InUse,
    InvalidRequest,
    LimitExceeded,
    NoController,
    NotFound,
    SessionLost,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unreachable,
    UserError,
    VenvdError,
)
from venvd_contract.background import CallInfo
from venvd_contract.commands import SessionInfo
from venvd_contract.files import FileInfo
from venvd_contract.resources import BackendLimits, VenvSpec
from venvd_contract.secrets import SecretHeader
from venvd_contract.session_requests import Limits

__all__ = [
    "NO_DEADLINE",
    "AsyncBackend",
    "AsyncController",
    "AsyncRemoteCall",
    "AsyncRemoteCallable",
    "AsyncRemoteObject",
    "AsyncSession",
    "Backend",
    "BackendLimits",
    "BadReply",
    "Busy",
    "CallInfo",
    "Cancelled",
    "Conflict",
    "Controller",
    "DeadlineExceeded",
    "Event",
    "FileInfo",
    "Forbidden",
    "HandleNotFound",
    "InUse",
    "Internal",
    "InvalidRequest",
    "LimitExceeded",
    "Limits",
    "NoController",
    "NotFound",
    "Output",
    "RemoteCall",
    "RemoteCallable",
    "RemoteObject",
    "SecretHeader",
    "Session",
    "SessionInfo",
    "SessionLost",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unreachable",
    "UserError",
    "VenvSpec",
    "VenvdError",
    "backend",
    "backend_async",
    "connect",
    "connect_async",
    "handle_id",
    "type_name",
]

for _public in map(globals().get, __all__):
    # help() and tracebacks show the name that users import.
    if getattr(_public, "__module__", "").startswith("venvd._"):
        _public.__module__ = "venvd"
del _public
