"""Which handler answers a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from venvd_rpc_backend.calls import Begin, Calls


class Streaming(Protocol):
    """Answers some of the streaming methods of a service."""

    def handlers(self, service: ServiceDescriptor) -> dict[str, grpc.RpcMethodHandler[Any, Any]]: ...


class Routes(grpc.GenericRpcHandler):
    """The methods of all services, by their path."""

    def __init__(self, services: tuple[ServiceDescriptor, ...], calls: Calls, *streaming: Streaming) -> None:
        self._unary = {_path(each, name): begin for each in services for name, begin in calls.unary(each).items()}
        self._streaming = {
            _path(each, name): handler
            for each in services
            for part in (calls, *streaming)
            for name, handler in part.handlers(each).items()
        }

    def add(self, calls: Mapping[str, Begin]) -> None:
        """Add methods that do not stream, by their path."""
        self._unary |= calls

    def service(self, handler_call_details: Any) -> Any:
        """Find the handler of a call, for gRPC."""
        begin = self._unary.get(handler_call_details.method)
        if begin is not None:
            return begin(handler_call_details.invocation_metadata)
        return self._streaming.get(handler_call_details.method)


def _path(service: ServiceDescriptor, name: str) -> str:
    return f"/{service.full_name}/{name}"
