"""Encodes calls as messages of the Session stream, and decodes answers and errors. Knows no channel."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc
from google.rpc.error_details_pb2 import DebugInfo, ErrorInfo
from grpc_status import rpc_status

from venvd._net.certificates import read_pem_files
from venvd._transports.base import Call, Event
from venvd._transports.rpc_handshake import explain_no_connection
from venvd.errors import (
    BadReply,
    DeadlineExceeded,
    InvalidRequest,
    Unavailable,
    Unreachable,
    VenvdError,
    error_from_reply,
)
from venvd_proto.v1 import python_service_pb2 as messages

T = TypeVar("T")

_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
SCHEMES = ("grpc", "grpcs")
_CODES = {
    grpc.StatusCode.CANCELLED: "cancelled",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid_request",
    grpc.StatusCode.NOT_FOUND: "not_found",
    grpc.StatusCode.PERMISSION_DENIED: "forbidden",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "too_large",
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
    grpc.StatusCode.UNIMPLEMENTED: "not_implemented",
}
"""The error codes for statuses without details. Such a status comes from gRPC itself or from a proxy."""


class RpcCodec:
    """Encodes calls and decodes answers of one server."""

    def __init__(self, url: str, token: str | None, ca: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.hostname or parts.path not in {"", "/"}:
            raise InvalidRequest(f'"{url}" is no address of a gRPC server: write grpc://host:port')
        self.url = url
        self.target = parts.netloc
        self.secure = parts.scheme == "grpcs"
        self._ca = ca
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    def make_credentials(self) -> grpc.ChannelCredentials:
        """Make the credentials of a secure channel: the authorities that it trusts and the certificate that it shows.

        Raises:
            InvalidRequest: a file of certificates is not usable.
        """
        return grpc.ssl_channel_credentials(*read_pem_files(self._ca))

    def request(self, call: Call[Any], *, stream: bool) -> messages.SessionRequest:
        """Encode a call. Raise `InvalidRequest` if the payload has no JSON form."""
        try:
            payload = _dumps(call.payload)
        except ValueError as error:
            raise InvalidRequest(f"{call.command}: the request has no JSON form: {error}") from None
        return messages.SessionRequest(
            id=1,
            command=call.command,
            payload_json=payload,
            session=call.session,
            timeout=call.timeout,
            lease=call.lease,
            values="tagged",
            stream=stream,
            attachments=[] if call.body is None else [call.body],
        )

    def event(self, answer: messages.SessionResponse) -> Event | None:
        """Return the event in an answer, or None if the answer is the reply."""
        if answer.WhichOneof("kind") != "event":
            return None
        return Event(answer.event.event, json.loads(answer.event.data_json))

    def finish(self, call: Call[T], answer: messages.SessionResponse) -> T:
        """Return the caller's value, or raise the error that the backend answered."""
        if answer.WhichOneof("kind") == "error":
            error = answer.error
            fields = {"code": error.code, "error": error.message, "stateLost": error.state_lost}
            if error.HasField("url"):
                fields["url"] = error.url
            if error.HasField("error_type"):
                fields["errorType"] = error.error_type
            if error.HasField("traceback"):
                fields["traceback"] = error.traceback
            if error.HasField("exception_json"):
                fields["exception"] = _parse_fields(error.exception_json)
            if error.HasField("output_json"):
                fields["output"] = _parse_fields(error.output_json)
            raise error_from_reply(fields)
        call.received = len(answer.result_json)
        try:
            result = json.loads(answer.result_json)
            if answer.attachments:
                result["attached"] = b"".join(answer.attachments)
            return call.finish(result)
        except json.JSONDecodeError as error:
            raise BadReply(f"{call.command}: the reply is not JSON: {error}") from None

    def explain_early_end(self) -> Unavailable:
        return Unavailable(f"{self.url} ended the call without an answer")

    def explain(self, error: Any) -> VenvdError:
        """Return the error that a gRPC status stands for. If the server is unreachable, shake hands to find out why."""
        failure = self._to_error(error)
        if isinstance(failure, Unreachable):
            return explain_no_connection(self.url, self._ca) or failure
        return failure

    async def explain_async(self, error: Any) -> VenvdError:
        """Do the same on an event loop."""
        failure = self._to_error(error)
        if isinstance(failure, Unreachable):
            return await asyncio.to_thread(explain_no_connection, self.url, self._ca) or failure
        return failure

    def _to_error(self, error: Any) -> VenvdError:
        """Return the error that a gRPC status stands for."""
        status, details = error.code(), error.details() or ""
        fields = {"code": _CODES.get(status, "internal"), "error": details}
        status_message = rpc_status.from_call(error)
        if status_message is not None:
            return error_from_reply(_parse_details(fields, status_message.details))
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"no answer from {self.url} in time; the call was abandoned")
        if status is grpc.StatusCode.UNAVAILABLE:
            return Unreachable(f"nothing answers at {self.url}: {details}")
        return error_from_reply(fields)


def _parse_details(fields: dict[str, Any], details: Any) -> dict[str, Any]:
    for detail in details:
        info, debug = ErrorInfo(), DebugInfo()
        if detail.Unpack(info):
            fields |= {"code": info.reason, "errorType": info.metadata.get("errorType")}
            fields["stateLost"] = info.metadata.get("stateLost") == "true"
            fields["url"] = info.metadata.get("url")
            fields["exception"] = _parse_fields(info.metadata.get("exception"))
        elif detail.Unpack(debug):
            fields["traceback"] = debug.detail
    return fields


def _parse_fields(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except ValueError:
        return None
