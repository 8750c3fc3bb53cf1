"""Python services from a version and a requirements list: SDK and CLI.

::

    import venvd

    with venvd.backend(requirements=["numpy"]) as b:      # builds, starts, and stops at the end
        np = b.import_module("numpy")
        print(np.arange(10).sum())

    b = venvd.connect("http://127.0.0.1:5678", token="…")  # or to a backend that runs already

`connect_async`, `backend_async` and `AsyncController` are the same for asyncio.
"""

from venvd.background import AsyncRemoteCall, RemoteCall
from venvd.controller import AsyncController, Controller
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
from venvd.job import backend, backend_async
from venvd.remote import RemoteObject, type_name
from venvd.remote_async import AsyncRemoteObject
from venvd.session import Backend, Session, connect
from venvd.session_async import AsyncBackend, AsyncSession, connect_async
from venvd.transports.base import Event
from venvd_contract.background import CallInfo
from venvd_contract.commands import Limits, Output, SessionInfo
from venvd_contract.files import FileInfo
from venvd_contract.resources import BackendLimits, VenvSpec

__all__ = [
    "AsyncBackend",
    "AsyncController",
    "AsyncRemoteCall",
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
    "RemoteObject",
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
    "type_name",
]
