"""The methods of the services, and what is particular about some of them.

Which command a method stands for is in the contract's table; what the proto declares beyond that is listed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from venvd_contract.commands import BY_NAME, COMMANDS
from venvd_contract.errors import Internal
from venvd_proto import fields
from venvd_proto.v1 import python_service_pb2, session_service_pb2, venv_service_pb2
from venvd_rpc_backend import messages

SERVICES: tuple[ServiceDescriptor, ...] = (
    *python_service_pb2.DESCRIPTOR.services_by_name.values(),
    *session_service_pb2.DESCRIPTOR.services_by_name.values(),
    *venv_service_pb2.DESCRIPTOR.services_by_name.values(),
)

PLANNED = {
    "VenvService/CreateEnvironment": "venv.create",
    "VenvService/ListEnvironments": "venv.list",
    "VenvService/GetEnvironment": "venv.status",
    "VenvService/DeleteEnvironment": "venv.delete",
    "VenvService/EnsureProviderEnvironment": "venv.ensure",
}
COMMAND_NAMES = {command.rpc: command.name for command in COMMANDS} | PLANNED
"""From `Service/Method` to the command."""

EXECUTE = "PythonService/Execute"
GET_FILE, PUT_FILE = "PythonService/GetFile", "PythonService/PutFile"
SESSION = "PythonService/Session"
BY_OTHERS = frozenset({SESSION, "PythonService/GetArray", "PythonService/PutArray"})
"""Methods that stream in a way of their own, and are answered by modules of their own."""

Respond = Callable[[bytes], Message | bytes]


@dataclass(frozen=True)
class Method:
    """One method of a service.

    Attributes:
        name: `Service/Method`.
        command: what core knows it as.
        open: whether it is answered without a token.
        request: its message.
        respond: makes its response of core's result.
    """

    name: str
    command: str
    open: bool
    request: type[Message]
    respond: Respond
    takes_stream: bool
    gives_stream: bool


def methods(service: ServiceDescriptor) -> Iterator[Method]:
    """The methods of a service, without those that are answered `BY_OTHERS`."""
    for method in service.methods:
        name = f"{service.name}/{method.name}"
        if name not in BY_OTHERS:
            yield _method(name, method)


def _method(name: str, method: MethodDescriptor) -> Method:
    command = COMMAND_NAMES[name]
    response = messages.message_class(method.output_type)
    return Method(
        name,
        command,
        command in BY_NAME and BY_NAME[command].open,
        messages.message_class(method.input_type),
        _PARTICULAR.get(name) or _plain(response),
        method.client_streaming,
        method.server_streaming,
    )


def _plain(response: type[Message]) -> Respond:
    """A field of the response for each member; where the only one is `value`, its bytes are written at once."""
    field = response.DESCRIPTOR.fields_by_name.get("value_json")
    before = None if field is None else fields.tag(field.number, fields.BYTES)

    def respond(result: bytes) -> Message | bytes:
        value = None if before is None else messages.only_value(result)
        if before is None or value is None:
            return messages.fill(response(), result)
        return fields.text(before, value)

    return respond


def _session(response: type[Any], result: bytes) -> Message:
    """The contract answers with the session itself, which here is a field."""
    made = response()
    messages.fill(made.session, result)
    return made


def _stored(result: bytes) -> Message:
    made = python_service_pb2.PutFileResponse()
    messages.fill(made.info, result)
    return made


def _output(result: bytes) -> Message:
    output = python_service_pb2.ExecuteOutput()
    return python_service_pb2.ExecuteResponse(output=messages.fill(output, result))


# ---- arrays of floats ------------------------------------------------------------------------------------------

_decode = msgspec.json.Decoder().decode


def _floats(result: bytes) -> Message:
    return python_service_pb2.ToFloatArrayResponse(data=_numbers(_listed(_decode(result))))


def _rows(result: bytes) -> Message:
    rows = [python_service_pb2.FloatRow(data=_numbers(_listed(row))) for row in _listed(_decode(result))]
    return python_service_pb2.ToFloatArray2DResponse(rows=rows)


def _numbers(row: list[Any]) -> list[float]:
    """Numbers as doubles; those that JSON lacks come tagged."""
    return [_number(item) for item in row] if any(type(item) not in {int, float} for item in row) else row


def _number(item: Any) -> float:
    tagged: Any = item.get("$float", item.get("$int")) if type(item) is dict else item
    try:
        return float(tagged)
    except (TypeError, ValueError, OverflowError):
        raise Internal("the session answered with what is no array of numbers") from None


def _listed(data: Any) -> list[Any]:
    if type(data) is not list:
        raise Internal("the session answered with what is no array")
    return data


_PARTICULAR: dict[str, Respond] = {
    EXECUTE: _output,
    "PythonService/ToFloatArray": _floats,
    "PythonService/ToFloatArray2D": _rows,
    "PythonService/PutFile": _stored,
    "SessionService/CreateSession": partial(_session, session_service_pb2.CreateSessionResponse),
    "SessionService/GetSession": partial(_session, session_service_pb2.GetSessionResponse),
    "SessionService/ResetSession": partial(_session, session_service_pb2.ResetSessionResponse),
}
