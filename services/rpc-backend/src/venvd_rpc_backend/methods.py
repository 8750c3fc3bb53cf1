"""The methods of the services: the command and the response of each.

The contract's table names the command of a method; the methods that the proto has beyond that are listed here.
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
from venvd_contract.venvs import VENV_COMMANDS
from venvd_proto import fields
from venvd_proto.v1 import python_service_pb2, session_service_pb2, venv_service_pb2
from venvd_rpc_backend import messages

SERVICES: tuple[ServiceDescriptor, ...] = (
    *python_service_pb2.DESCRIPTOR.services_by_name.values(),
    *session_service_pb2.DESCRIPTOR.services_by_name.values(),
    *venv_service_pb2.DESCRIPTOR.services_by_name.values(),
)

COMMAND_NAMES = {command.rpc: command.name for command in (*COMMANDS, *VENV_COMMANDS)}
"""Commands by `Service/Method`."""

EXECUTE = "PythonService/Execute"
GET_FILE, PUT_FILE = "PythonService/GetFile", "PythonService/PutFile"
SESSION = "PythonService/Session"
STREAMING = frozenset({SESSION, "PythonService/GetArray", "PythonService/PutArray", "VenvService/FollowOperation"})
"""Streaming methods that have modules of their own."""

_FLOATS = frozenset({"tofloatarray", "tofloatarray2d"})
"""Commands whose response has doubles, which can be NaN and infinities."""

Respond = Callable[[bytes], Message | bytes]


@dataclass(frozen=True)
class Method:
    """One method of a service.

    Attributes:
        name: `Service/Method`.
        command: its name in the contract.
        open: whether it needs no token.
        request: the class of its request.
        respond: makes its response from a result of core.
        values: the value mode that the response needs, whatever the client asks for; None for the client's.
        numbers: the type of the numbers in the response of a float array: `d` for double, `f` for float.
    """

    name: str
    command: str
    open: bool
    request: type[Message]
    respond: Respond
    takes_stream: bool
    gives_stream: bool
    values: str | None
    numbers: str = "d"


def list_methods(service: ServiceDescriptor) -> Iterator[Method]:
    """Yield the methods of a service, without those in `STREAMING`."""
    for method in service.methods:
        name = f"{service.name}/{method.name}"
        if name not in STREAMING:
            yield _describe(name, method)


def _describe(name: str, method: MethodDescriptor) -> Method:
    command = COMMAND_NAMES[name]
    response = messages.message_class(method.output_type)
    return Method(
        name,
        command,
        command in BY_NAME and BY_NAME[command].open,
        messages.message_class(method.input_type),
        _RESPONSES.get(name) or _respond_with_fields(response),
        method.client_streaming,
        method.server_streaming,
        "tagged" if command in _FLOATS else None,
    )


def _respond_with_fields(response: type[Message]) -> Respond:
    """Fill each field of the response; where `value` is the only one, write its bytes without parsing."""
    field = response.DESCRIPTOR.fields_by_name.get("value_json")
    before = None if field is None else fields.tag(field.number, fields.BYTES)

    def respond(result: bytes) -> Message | bytes:
        value = None if before is None else messages.find_only_value(result)
        if before is None or value is None:
            return messages.fill(response(), result)
        return fields.text(before, value)

    return respond


def _respond_with_session(response: type[Any], result: bytes) -> Message:
    """Fill the field `session`: the contract answers with the session itself."""
    message: Message = response()
    messages.fill(message.session, result)
    return message


def _respond_with_file(result: bytes) -> Message:
    message = python_service_pb2.PutFileResponse()
    messages.fill(message.info, result)
    return message


def _respond_with_output(result: bytes) -> Message:
    output = python_service_pb2.ExecuteOutput()
    return python_service_pb2.ExecuteResponse(output=messages.fill(output, result))


# ---- arrays of floats ------------------------------------------------------------------------------------------

_decode = msgspec.json.Decoder().decode


def _respond_with_floats(result: bytes) -> Message:
    return python_service_pb2.ToFloatArrayResponse(data=read_floats(result))


def _respond_with_rows(result: bytes) -> Message:
    rows = [python_service_pb2.FloatRow(data=row) for row in read_rows(result)]
    return python_service_pb2.ToFloatArray2DResponse(rows=rows)


def read_floats(result: bytes) -> list[float]:
    """Read the result of `tofloatarray`.

    Raises:
        Internal: it is no array of numbers.
    """
    return _read_numbers(_check_list(_decode(result)))


def read_rows(result: bytes) -> list[list[float]]:
    """Read the result of `tofloatarray2d`.

    Raises:
        Internal: it is no array of arrays of numbers.
    """
    return [_read_numbers(_check_list(row)) for row in _check_list(_decode(result))]


def _read_numbers(row: list[Any]) -> list[float]:
    """Read numbers as doubles; those that JSON lacks are tagged."""
    return [_read_number(item) for item in row] if any(type(item) not in {int, float} for item in row) else row


def _read_number(item: Any) -> float:
    tagged: Any = item.get("$float", item.get("$int")) if type(item) is dict else item
    try:
        return float(tagged)
    except (TypeError, ValueError, OverflowError):
        raise Internal("the session sent a result that is not an array of numbers") from None


def _check_list(data: Any) -> list[Any]:
    if type(data) is not list:
        raise Internal("the session sent a result that is not an array")
    return data


# ---- venvs -----------------------------------------------------------------------------------------------------


def _respond_with_change(response: type[Any], result: bytes) -> Message:
    """Fill the fields of the answer, and `environment` from its `venv`."""
    message: Message = response()
    messages.fill(message, result)
    messages.fill(message.environment, messages.read_member(result, "venv"))
    return message


def _respond_with_environment(result: bytes) -> Message:
    message = venv_service_pb2.GetEnvironmentResponse()
    messages.fill(message.environment, result)
    return message


def _respond_with_environments(result: bytes) -> Message:
    message = venv_service_pb2.ListEnvironmentsResponse()
    messages.fill(message, b'{"environments":%b}' % messages.read_member(result, "items"))
    return messages.fill(message, result)


_RESPONSES: dict[str, Respond] = {
    "VenvService/CreateEnvironment": partial(_respond_with_change, venv_service_pb2.CreateEnvironmentResponse),
    "VenvService/EnsureProviderEnvironment": partial(
        _respond_with_change, venv_service_pb2.EnsureProviderEnvironmentResponse
    ),
    "VenvService/GetEnvironment": _respond_with_environment,
    "VenvService/ListEnvironments": _respond_with_environments,
    EXECUTE: _respond_with_output,
    "PythonService/ToFloatArray": _respond_with_floats,
    "PythonService/ToFloatArray2D": _respond_with_rows,
    "PythonService/PutFile": _respond_with_file,
    "SessionService/CreateSession": partial(_respond_with_session, session_service_pb2.CreateSessionResponse),
    "SessionService/GetSession": partial(_respond_with_session, session_service_pb2.GetSessionResponse),
    "SessionService/ResetSession": partial(_respond_with_session, session_service_pb2.ResetSessionResponse),
}
