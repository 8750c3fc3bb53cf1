"""Errors as gRPC statuses with rich details."""

from __future__ import annotations

import json
import logging
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import DebugInfo, ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from venvd_contract import exceptions
from venvd_contract.errors import Internal, Moved, VenvdError
from venvd_http.auth import hold_back

log = logging.getLogger(__name__)

DOMAIN = "venvd"

# Clients refuse more than 8 KiB of metadata. It holds the message twice, once with up to three bytes for each.
MESSAGE_BYTES = 768
TYPE_BYTES = 256
TRACEBACK_BYTES = 2560
EXCEPTION_BYTES = 400
CUT = "…"


def status_of(error: VenvdError) -> grpc.Status:
    """Make the status of an error: its code as `google.rpc.ErrorInfo`, its traceback as `google.rpc.DebugInfo`.

    Metadata is small: a long message loses its end, a long traceback its beginning, since its end says what happened,
    and an exception its chain first.
    """
    info = ErrorInfo(reason=error.code, domain=DOMAIN, metadata={"stateLost": "true" if error.state_lost else "false"})
    if error.error_type is not None:
        info.metadata["errorType"] = cut_end(error.error_type, TYPE_BYTES)
    if error.exception is not None:
        info.metadata["exception"] = json.dumps(exceptions.shorten(error.exception, EXCEPTION_BYTES))
    if isinstance(error, Moved):
        info.metadata["url"] = error.url
    details = [info]
    if error.traceback is not None:
        details.append(DebugInfo(detail=cut_beginning(error.traceback, TRACEBACK_BYTES)))
    status = Status(code=Code.Value(error.grpc_status), message=cut_end(error.message, MESSAGE_BYTES))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    grpc_status: grpc.Status = rpc_status.to_status(status)
    return grpc_status


def public_error(error: BaseException) -> VenvdError:
    """Return the error itself or, for an unexpected one, the error that clients see."""
    if isinstance(error, VenvdError):
        return error
    log.error("a call failed with an unexpected error", exc_info=error)
    return Internal("the server failed; its log has the details")


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which have no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def cut_end(text: str, size: int) -> str:
    """Cut the end of a text that has more than `size` bytes."""
    data = replace_surrogates(text).encode()
    return data.decode() if len(data) <= size else data[: size - len(CUT.encode())].decode(errors="ignore") + CUT


def cut_beginning(text: str, size: int) -> str:
    """Cut the beginning of a text that has more than `size` bytes."""
    data = replace_surrogates(text).encode()
    return data.decode() if len(data) <= size else CUT + data[len(CUT.encode()) - size :].decode(errors="ignore")


async def refuse(context: Any, error: BaseException) -> None:
    """End a call with the status of an error; the refusal of a wrong token is held back."""
    await hold_back(error)
    await context.abort_with_status(status_of(public_error(error)))
