"""Statuses of gRPC: gives those of the router, and reads those of replicas."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from venvd_contract.errors import Internal, Moved, VenvdError
from venvd_http.auth import hold_back

log = logging.getLogger(__name__)

_MESSAGE_CHARACTERS = 256
_DETAILS = "grpc-status-details-bin"


async def refuse(context: Any, error: Exception) -> None:
    """End a call with the status of an error. Delay the refusal of a wrong token."""
    if isinstance(error, grpc.aio.AioRpcError):
        await pass_on(context, error)
    if not isinstance(error, VenvdError):
        log.error("a call failed with an unexpected error", exc_info=error)
        error = Internal("a defect of the router; its log has the traceback")
    await hold_back(error)
    detail = AnyMessage()
    detail.Pack(ErrorInfo(reason=error.code, domain="venvd", metadata={"stateLost": "false"}))
    message = error.message[:_MESSAGE_CHARACTERS]
    status = Status(code=Code.Value(error.grpc_status), message=message, details=[detail])
    await context.abort_with_status(rpc_status.to_status(status))


async def pass_on(context: Any, error: grpc.aio.AioRpcError) -> NoReturn:
    """End a call as the call at the replica ended."""
    trailing = tuple((name, value) for name, value in error.trailing_metadata() or ())
    await context.abort(error.code(), error.details() or "", trailing)
    raise AssertionError("abort raises")


def read_url(error: grpc.aio.AioRpcError) -> str | None:
    """Read the address to which a status sends the client. Return None if it is another status."""
    if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
        return None
    for name, value in error.trailing_metadata() or ():
        if name == _DETAILS:
            for detail in Status.FromString(value).details:
                info = ErrorInfo()
                if detail.Unpack(info) and info.reason == Moved.code:
                    return str(info.metadata.get("url", ""))
    return None
