"""The handler of each method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from venvd_rpc_backend.calls import Begin, Calls, UnaryCall
from venvd_rpc_backend.entrance import Entrance


class Streaming(Protocol):
    """Answers some of the streaming methods of a service."""

    def handlers(self, service: ServiceDescriptor) -> dict[str, grpc.RpcMethodHandler[Any, Any]]: ...


class Routes(grpc.GenericRpcHandler):
    """The methods of all services, by their path."""

    def __init__(
        self, services: tuple[ServiceDescriptor, ...], entrance: Entrance, calls: Calls, *streaming: Streaming
    ) -> None:
        self._entrance = entrance
        self._refusing: Any = grpc.stream_stream_rpc_method_handler(entrance.refuse)
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
        metadata = handler_call_details.invocation_metadata
        begin = self._unary.get(handler_call_details.method)
        handler: Any = self._streaming.get(handler_call_details.method) if begin is None else begin(metadata)
        if handler is None or self._entrance.guard.open:
            return handler
        if self._entrance.knows(metadata):
            return handler
        is_open = isinstance(handler, UnaryCall) and handler.open
        return self._entrance.limit(handler) if is_open else self._refusing


def _path(service: ServiceDescriptor, name: str) -> str:
    return f"/{service.full_name}/{name}"
