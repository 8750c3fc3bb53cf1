"""Errors as gRPC statuses with rich details."""

from __future__ import annotations

import logging

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import DebugInfo, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from venvd_contract.errors import Internal, VenvdError

log = logging.getLogger(__name__)

DOMAIN = "venvd"

# clients refuse metadata of more than 8 KiB, and the message is in it twice, once with three bytes for each of its own
MESSAGE_BYTES = 768
TYPE_BYTES = 256
TRACEBACK_BYTES = 2560
CUT = "…"


def status_of(error: VenvdError) -> grpc.Status:
    """The status of an error: the code as `google.rpc.ErrorInfo`, the traceback as `google.rpc.DebugInfo`.

    What metadata has no room for is cut: messages at their end, tracebacks at their beginning, since the end says
    what happened and where.
    """
    info = ErrorInfo(reason=error.code, domain=DOMAIN, metadata={"stateLost": "true" if error.state_lost else "false"})
    if error.error_type is not None:
        info.metadata["errorType"] = beginning(error.error_type, TYPE_BYTES)
    details = [info]
    if error.traceback is not None:
        details.append(DebugInfo(detail=ending(error.traceback, TRACEBACK_BYTES)))
    status = Status(code=Code.Value(error.grpc_status), message=beginning(error.message, MESSAGE_BYTES))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    made: grpc.Status = rpc_status.to_status(status)
    return made


def known(error: BaseException) -> VenvdError:
    """The error itself, or what clients are told in its place."""
    if isinstance(error, VenvdError):
        return error
    log.error("a call failed in a way that is no error of the contract", exc_info=error)
    return Internal("the server failed; its log says how")


def clean(text: str) -> str:
    """The text without lone surrogates, which have no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def beginning(text: str, size: int) -> str:
    """As much of the beginning as fits into `size` bytes."""
    data = clean(text).encode()
    return data.decode() if len(data) <= size else data[: size - len(CUT.encode())].decode(errors="ignore") + CUT


def ending(text: str, size: int) -> str:
    """As much of the end as fits into `size` bytes."""
    data = clean(text).encode()
    return data.decode() if len(data) <= size else CUT + data[len(CUT.encode()) - size :].decode(errors="ignore")
