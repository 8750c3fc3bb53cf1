"""gRPC as a stranger speaks it: stubs made from the proto files, and the public packages for rich status details."""

from __future__ import annotations

import json
from collections import deque
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from venvd_contract.commands import BY_NAME, check_payload
from venvd_contract.errors import VenvdError, from_fields
from venvd_proto.v1 import (
    python_service_pb2,
    python_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
)

_MESSAGES = {"PythonService": python_service_pb2, "SessionService": session_service_pb2}
_STUBS = {
    "PythonService": python_service_pb2_grpc.PythonServiceStub,
    "SessionService": session_service_pb2_grpc.SessionServiceStub,
}


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


class RpcCaller:
    """Unary calls where a typed message can say it, the `Session` stream where only raw JSON can."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url, self._token = url, token
        self._sent: deque[Any] = deque()
        self._channel = grpc.insecure_channel(
            urlsplit(url).netloc,
            options=[("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
        )

    def __call__(
        self,
        command: str,
        payload: Any = None,
        *,
        session: str | None = None,
        timeout: float | None = None,
        values: str | None = None,
        name: str | None = None,
        lease: float | None = None,
    ) -> Any:
        metadata = {
            "authorization": self._token and f"Bearer {self._token}",
            "x-venvd-session": session,
            "x-venvd-values": values,
            "x-venvd-call": name,
            "x-venvd-lease": lease and str(lease),
        }
        sent = [(name, value) for name, value in metadata.items() if value is not None]
        if timeout is not None:  # a deadline of gRPC's own ends the call here before the answer of the server comes
            return self._streamed(command, payload, sent, timeout)
        try:
            request = self._message(command, payload or {})
        except (TypeError, ValueError, VenvdError):
            return self._streamed(command, payload, sent)
        try:
            return self._unary(command, request, sent)
        except grpc.RpcError as error:
            raise told(error) from None

    def send(self, command: str, payloads: list[Any], session: str) -> None:
        """Begin unary calls without waiting; `receive` waits for the answers, in their order."""
        service, method = BY_NAME[command].rpc.split("/")
        metadata = [("authorization", f"Bearer {self._token}"), ("x-venvd-session", session)]
        begin = getattr(_STUBS[service](self._channel), method).future
        for payload in payloads:
            self._sent.append(begin(self._message(command, payload), metadata=metadata, timeout=120))

    def receive(self) -> Any:
        """The next answer."""
        try:
            return plain(self._sent.popleft().result())
        except grpc.RpcError as error:
            raise told(error) from None

    def _message(self, command: str, payload: dict[str, Any]) -> Message:
        """The typed request; raises where the message cannot say what the payload says."""
        check_payload(command, payload)
        service, method = BY_NAME[command].rpc.split("/")
        message = getattr(_MESSAGES[service], f"{method}Request")()
        for name, value in payload.items():
            fill(message, snake(name), value)
        return message  # type: ignore[no-any-return]

    def _unary(self, command: str, request: Message, metadata: list[tuple[str, str]]) -> Any:
        service, method = BY_NAME[command].rpc.split("/")
        answer = getattr(_STUBS[service](self._channel), method)(request, metadata=metadata, timeout=60)
        if command == "exec":
            return plain(list(answer)[-1].output)
        if command == "tofloatarray":
            return list(answer.data)
        if command == "tofloatarray2d":
            return [list(row.data) for row in answer.rows]
        result = plain(answer)
        return result["session"] if command.startswith("session.") and "session" in result else result

    def _streamed(
        self, command: str, payload: Any, metadata: list[tuple[str, str]], timeout: float | None = None
    ) -> Any:
        request = python_service_pb2.SessionRequest(
            id=1, command=command, payload_json=json.dumps(payload), timeout=timeout
        )
        try:
            stub = python_service_pb2_grpc.PythonServiceStub(self._channel)
            answer = next(iter(stub.Session(iter([request]), metadata=metadata, timeout=60)))
        except grpc.RpcError as error:
            raise told(error) from None
        if answer.HasField("error"):
            raise from_fields({**plain(answer.error), "error": answer.error.message})
        return json.loads(answer.result_json)

    def fresh(self) -> RpcCaller:
        return RpcCaller(self._url, self._token)

    def with_token(self, token: str | None) -> RpcCaller:
        return RpcCaller(self._url, token)

    def close(self) -> None:
        self._channel.close()


def fill(message: Any, name: str, value: Any) -> None:
    """Set one field; JSON text where the message has a field for that."""
    fields = message.DESCRIPTOR.fields_by_name
    if f"{name}_json" in fields:
        setattr(message, f"{name}_json", json.dumps(value))
    elif name not in fields:
        raise ValueError(name)
    elif value is None:
        return
    elif isinstance(value, dict) and fields[name].message_type.GetOptions().map_entry:
        getattr(message, name).update(value)
    elif isinstance(value, dict):
        getattr(message, name).SetInParent()
        for key, item in value.items():
            fill(getattr(message, name), snake(key), item)
    elif isinstance(value, list):
        getattr(message, name).extend(value)
    else:
        setattr(message, name, value)


def plain(message: Any) -> dict[str, Any]:
    """A message as the JSON that the other transports answer with."""
    fields = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            if field.message_type is not None or field.containing_oneof is None:
                fields[camel(field.name)] = None
            continue
        value = getattr(message, field.name)
        repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        items = [part(field, item) for item in value] if repeated else part(field, value)
        fields[camel(field.name.removesuffix("_json"))] = items
    return fields


def part(field: Any, value: Any) -> Any:
    if field.name.endswith("_json"):
        return json.loads(value)
    return plain(value) if field.message_type is not None else value


def told(error: Any) -> VenvdError:
    """The contract's error in the rich details of a status; the status alone where there are none."""
    status = rpc_status.from_call(error)
    fields: dict[str, Any] = {"error": error.details(), "code": error.code().name}
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and status is None:
        fields["code"] = "timeout"
    for detail in status.details if status else ():
        info, debug = error_details_pb2.ErrorInfo(), error_details_pb2.DebugInfo()
        if detail.Unpack(info):
            fields |= {"code": info.reason, "errorType": info.metadata.get("errorType")}
            fields["stateLost"] = info.metadata.get("stateLost") == "true"
        elif detail.Unpack(debug):
            fields["traceback"] = debug.detail
    return from_fields(fields)
