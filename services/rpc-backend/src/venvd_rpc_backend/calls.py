"""The handlers of unary methods, and of those that stream in one direction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from venvd_core.backend import Backend, Reply, Request
from venvd_proto.v1.python_service_pb2 import ExecuteResponse
from venvd_rpc_backend import context as contexts
from venvd_rpc_backend import files, messages, status
from venvd_rpc_backend.methods import EXECUTE, GET_FILE, PUT_FILE, Method, methods

Context = Any  # grpc.aio.ServicerContext, whose types are not told

_WRAPS: dict[tuple[bool, bool], Callable[..., grpc.RpcMethodHandler[Any, Any]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
}
"""By whether a method takes a stream, and whether it gives one."""


async def refuse(context: Context, error: BaseException) -> None:
    """End a call with the status of an error."""
    await context.abort_with_status(status.status_of(status.known(error)))


class Calls:
    """Answers the methods of all services but the Session stream."""

    def __init__(self, backend: Backend, *, cancel_on_disconnect: bool) -> None:
        self._backend = backend
        self._cancel = cancel_on_disconnect

    def handlers(self, service: ServiceDescriptor) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """A handler for each method, by its name without the service."""
        return {method.name.partition("/")[2]: self._handler(method) for method in methods(service)}

    def _handler(self, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        wrap = _WRAPS[method.takes_stream, method.gives_stream]
        streaming = {EXECUTE: self._execute, GET_FILE: self._get_file, PUT_FILE: self._put_file}
        serve = streaming.get(method.name, self._unary)
        return wrap(_function(serve, method), method.request.FromString, _serialized)

    def _request(self, method: Method, message: Message | None, context: Context) -> Request:
        found = contexts.asked(context)
        if not method.open:
            contexts.authorise(self._backend, found)
        payload = b"{}" if message is None else messages.payload(message)
        timeout = contexts.timeout(context)
        return Request(
            method.command, payload, found.session, timeout, found.values, name=found.call, lease=found.lease
        )

    def _outcome(self, call: asyncio.Future[Reply]) -> Awaitable[Reply]:
        """What to wait for: the call, which ends with its client, or where that is not wanted goes on without it."""
        return call if self._cancel else asyncio.shield(call)

    async def _unary(self, method: Method, message: Message, context: Context) -> Message | bytes | None:
        try:
            reply = await self._outcome(self._backend.call(self._request(method, message, context)))
            return method.respond(reply.result)
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)
            return None

    async def _get_file(self, method: Method, message: Message, context: Context) -> None:
        """The file's description, then its bytes."""
        try:
            await files.send(self._backend, self._request(method, message, context), context)
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)

    async def _put_file(
        self, method: Method, requests: AsyncIterator[Message], context: Context
    ) -> Message | bytes | None:
        """The header, then bytes."""
        try:
            return method.respond(await files.receive(self._backend, self._request(method, None, context), requests))
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)
            return None

    async def _execute(self, method: Method, message: Message, context: Context) -> None:
        """Events as they come, then the output."""
        events: asyncio.Queue[ExecuteResponse | None] = asyncio.Queue()
        call: asyncio.Future[Reply] | None = None
        try:
            request = self._request(method, message, context)
            request.on_event = lambda kind, data: events.put_nowait(_event(kind, data))
            call = self._backend.call(request)
            call.add_done_callback(lambda _: events.put_nowait(None))
            while (event := await events.get()) is not None:
                await context.write(event)
            await context.write(method.respond(call.result().result))
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)
        finally:
            if call is not None and self._cancel:
                call.cancel()


def _function(serve: Callable[..., Awaitable[Any]], method: Method) -> Callable[[Any, Context], Awaitable[Any]]:
    """A function of its own: gRPC asks of each call anew whether its handler is one, and takes long over others."""

    async def handle(message: Any, context: Context) -> Any:
        return await serve(method, message, context)

    return handle


def _event(kind: str, data: Any) -> ExecuteResponse:
    made = ExecuteResponse()
    if kind in {"stdout", "stderr"}:
        setattr(made, kind, status.clean(str(data)))
    else:
        setattr(made, f"{kind}_json", messages.encoded(data))
    return made


def _serialized(message: Message | bytes) -> bytes:
    return message if type(message) is bytes else message.SerializeToString()  # type: ignore[union-attr]


class Handlers(Protocol):
    """What answers some methods of a service."""

    def handlers(self, service: ServiceDescriptor) -> dict[str, grpc.RpcMethodHandler[Any, Any]]: ...


def generic_handlers(services: tuple[ServiceDescriptor, ...], *parts: Handlers) -> tuple[grpc.GenericRpcHandler, ...]:
    """What a `grpc.aio.Server` takes: one handler for each service."""
    found = []
    for service in services:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for part in parts:
            handlers |= part.handlers(service)
        found.append(grpc.method_handlers_generic_handler(service.full_name, handlers))
    return tuple(found)
