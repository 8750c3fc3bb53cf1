"""The gRPC service `beep.python.runtime.PythonService`, with the messages of the older host's file.

Its methods have names of `venvd.v1.PythonService` and stand for the same commands. Some responses differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from google.protobuf.message import Message

from venvd_core.backend import Request
from venvd_proto.compat import python_service_pb2
from venvd_rpc_backend import messages
from venvd_rpc_backend.calls import Begin, Calls, Context
from venvd_rpc_backend.context import CallFields
from venvd_rpc_backend.methods import Method, Respond, list_methods, read_floats, read_rows

SERVICE = python_service_pb2.DESCRIPTOR.services_by_name["PythonService"]
NAME: str = SERVICE.full_name
_EXPECTS_DATA = b'"returnType":"JsonElement"}'
"""Has the session keep no handle if the response cannot contain one."""


class OldCalls(Calls):
    """Answers the methods of the old service."""

    def request(self, method: Method, message: Message | None, context: Context, fields: CallFields) -> Request:
        """Make the request for core. The response of `Evaluate` cannot contain a handle."""
        request = super().request(method, message, context, fields)
        if method.command == "eval" and len(request.payload) > len(b"{}"):
            request.payload = request.payload[:-1] + b"," + _EXPECTS_DATA
        return request


def list_calls(calls: OldCalls) -> dict[str, Begin]:
    """Return what begins a call of each method, by its path."""
    described = [_with_old_response(method) for method in list_methods(SERVICE)]
    return {f"/{NAME}/{method.name.partition('/')[2]}": calls.choose_begin(method) for method in described}


def _with_old_response(method: Method) -> Method:
    respond = _RESPONSES.get(method.name)
    return method if respond is None else replace(method, respond=respond, numbers="f")


def _respond_with_result(response: Callable[..., Message], result: bytes) -> Message:
    """Answer with plain data as JSON, or with the handle of an object."""
    value = messages.read_value(result)
    if value is not None:
        return response(value_json=value)
    handle = python_service_pb2.HandleResult()
    return response(handle=messages.fill(handle, result))


def _respond_with_value(result: bytes) -> Message:
    """Answer with plain data as JSON; the message cannot contain an object."""
    return python_service_pb2.EvaluateResponse(value_json=messages.read_value(result) or "null")


def _respond_with_floats(result: bytes) -> Message:
    return python_service_pb2.ToFloatArrayResponse(data=read_floats(result))


def _respond_with_rows(result: bytes) -> Message:
    rows = [python_service_pb2.FloatArray(values=row) for row in read_rows(result)]
    return python_service_pb2.ToFloatArray2DResponse(data=rows)


_RESPONSES: dict[str, Respond] = {
    "PythonService/CallMethod": partial(_respond_with_result, python_service_pb2.CallMethodResponse),
    "PythonService/GetAttribute": partial(_respond_with_result, python_service_pb2.GetAttributeResponse),
    "PythonService/Evaluate": _respond_with_value,
    "PythonService/ToFloatArray": _respond_with_floats,
    "PythonService/ToFloatArray2D": _respond_with_rows,
}
