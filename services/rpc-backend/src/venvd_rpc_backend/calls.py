"""The handlers of unary methods, and of those that stream in one direction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from venvd_contract.internal.segments import INLINE_BYTES
from venvd_core.arrays import claim
from venvd_core.backend import Backend, Call, Reply, Request
from venvd_core.float_arrays import COMMANDS, read_text, wait_for_text
from venvd_core.wire import TEXT_EVENTS
from venvd_http.auth import tie_to
from venvd_proto.v1.python_service_pb2 import ExecuteResponse
from venvd_rpc_backend import context as contexts
from venvd_rpc_backend import files, float_arrays, messages
from venvd_rpc_backend.context import CallFields, PeerGuard
from venvd_rpc_backend.methods import EXECUTE, GET_FILE, PUT_FILE, Method, list_methods
from venvd_rpc_backend.status import refuse

Context = Any  # grpc.aio.ServicerContext, which has no types
Metadata = contexts.Metadata
T = TypeVar("T")

_WRAPS: dict[tuple[bool, bool], Callable[..., grpc.RpcMethodHandler[Any, Any]]] = {
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
}
"""The makers of handlers, by whether a method takes a stream and whether it gives one; `UnaryCall` handles the rest."""


async def outlive(work: Awaitable[T]) -> T:
    """Wait for work that runs on if its client leaves; an array that it then returns is closed."""
    waiting = asyncio.ensure_future(work)
    return await claim(waiting, asyncio.shield(waiting))


def _serialize(message: Message | bytes) -> bytes:
    return message if type(message) is bytes else message.SerializeToString()  # type: ignore[union-attr]


class Calls:
    """Answers the methods of all services but the Session stream."""

    def __init__(self, backend: Backend, guard: PeerGuard, *, cancel_on_disconnect: bool) -> None:
        self._backend = backend
        self._guard = guard
        self._cancel = cancel_on_disconnect

    def unary(self, service: ServiceDescriptor) -> dict[str, Begin]:
        """Return the beginner of each unary method, by its name without the service."""
        unary = [method for method in list_methods(service) if not _streams(method)]
        return {_short(method): self.choose_begin(method) for method in unary}

    def choose_begin(self, method: Method) -> Begin:
        """Return the function that begins a call of a unary method."""
        return partial(FloatArrayCall if method.command in COMMANDS else UnaryCall, self, method)

    def handlers(self, service: ServiceDescriptor) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return a handler for each method that streams."""
        return {_short(method): self._handler(method) for method in list_methods(service) if _streams(method)}

    def _handler(self, method: Method) -> grpc.RpcMethodHandler[Any, Any]:
        wrap = _WRAPS[method.takes_stream, method.gives_stream]
        serve = {EXECUTE: self._execute, GET_FILE: self._get_file, PUT_FILE: self._put_file}[method.name]
        return wrap(_function(serve, method), method.request.FromString, _serialize)

    def admit(self, method: Method, metadata: Metadata, context: Context) -> CallFields:
        """Read the metadata of a call, and check its token.

        Raises:
            VenvdError: the token is wrong, or a field is.
        """
        fields = contexts.read_metadata(metadata)
        if not method.open:
            contexts.authorise(self._guard, fields, context)
        return fields

    def request(self, method: Method, message: Message | None, context: Context, fields: CallFields) -> Request:
        """Make the request for core."""
        payload = b"{}" if message is None else messages.write_payload(message)
        timeout = contexts.find_timeout(context)
        values = method.values or fields.values
        return Request(
            method.command,
            payload,
            fields.session,
            timeout,
            values,
            name=fields.call,
            lease=fields.lease,
            token=fields.token,
            caller=fields.caller,
        )

    def outcome(self, request: Request) -> Awaitable[Reply]:
        """Begin a call and return its awaitable; a setting says whether the call ends with its client."""
        call = self._backend.call(request)
        return call if self._cancel else asyncio.shield(call.future())

    async def float_array(self, method: Method, request: Request) -> Message | bytes:
        """Run a call for a float array, and return the response."""
        call = Call(request)
        self._backend.begin(call)
        waiting = asyncio.ensure_future(wait_for_text(call))
        text = await (waiting if self._cancel else outlive(waiting))
        pack = float_arrays.pack_flat if method.command == "tofloatarray" else float_arrays.pack_rows
        if text is None:
            result = call.result().result
            if len(result) <= INLINE_BYTES:
                return method.respond(result)
            return await pack(float_arrays.cut(result), method.numbers)
        try:
            return await pack(read_text(text), method.numbers)
        finally:
            text.close()

    async def _get_file(self, method: Method, message: Message, context: Context) -> None:
        """Send the description of a file, then its bytes."""
        try:
            fields = self.admit(method, context.invocation_metadata(), context)
            with tie_to(fields.key):
                await files.send(self._backend, self.request(method, message, context, fields), context)
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)

    async def _put_file(
        self, method: Method, requests: AsyncIterator[Message], context: Context
    ) -> Message | bytes | None:
        """Receive the header of a file, then its bytes."""
        try:
            fields = self.admit(method, context.invocation_metadata(), context)
            with tie_to(fields.key):
                request = self.request(method, None, context, fields)
                return method.respond(await files.receive(self._backend, request, requests))
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)
            return None

    async def _execute(self, method: Method, message: Message, context: Context) -> None:
        """Send events as they occur, then the output."""
        events: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue()
        call: Call | None = None
        try:
            fields = self.admit(method, context.invocation_metadata(), context)
            request = self.request(method, message, context, fields)
            call = Call(request, on_event=lambda kind, data: events.put_nowait((kind, data)))
            self._backend.begin(call)
            call.add_done_callback(lambda _: events.put_nowait(None))
            with tie_to(fields.key):
                while (event := await events.get()) is not None:
                    await context.write(_event(*event))
                await context.write(method.respond(call.result().result))
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)
        finally:
            if call is not None and self._cancel:
                call.cancel()


class UnaryCall:
    """One call of a unary method, in the form of a handler of gRPC.

    It keeps the metadata from gRPC's search for the handler, because reading them again takes long.
    """

    __slots__ = ("_calls", "_metadata", "_method", "request_deserializer")
    request_streaming = response_streaming = False
    response_serializer = staticmethod(_serialize)

    def __init__(self, calls: Calls, method: Method, metadata: Metadata) -> None:
        self._calls = calls
        self._method = method
        self._metadata = metadata
        self.request_deserializer = method.request.FromString

    @property
    def open(self) -> bool:
        """Whether the method needs no token."""
        return self._method.open

    async def unary_unary(self, message: Message, context: Context) -> Message | bytes | None:
        """Answer the call."""
        try:
            fields = self._calls.admit(self._method, self._metadata, context)
            outcome = self._calls.outcome(self._calls.request(self._method, message, context, fields))
            if fields.key is None:
                return self._method.respond((await outcome).result)
            with tie_to(fields.key):
                return self._method.respond((await outcome).result)
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)
            return None


class FloatArrayCall(UnaryCall):
    """One call for a float array. The server cannot hold a long text together with its message."""

    __slots__ = ()

    async def unary_unary(self, message: Message, context: Context) -> Message | bytes | None:
        """Answer the call."""
        try:
            fields = self._calls.admit(self._method, self._metadata, context)
            request = self._calls.request(self._method, message, context, fields)
            with tie_to(fields.key):
                return await self._calls.float_array(self._method, request)
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)
            return None


Begin = Callable[[Metadata], UnaryCall]
"""Begins a call with the metadata of its client."""


def _short(method: Method) -> str:
    return method.name.partition("/")[2]


def _streams(method: Method) -> bool:
    return method.takes_stream or method.gives_stream


def _function(serve: Callable[..., Awaitable[Any]], method: Method) -> Callable[[Any, Context], Awaitable[Any]]:
    """Wrap `serve` in a function: gRPC inspects the handler of each call, and takes long for other callables."""

    async def handle(message: Any, context: Context) -> Any:
        return await serve(method, message, context)

    return handle


def _event(kind: str, data: bytes) -> ExecuteResponse:
    response = ExecuteResponse()
    if kind in TEXT_EVENTS:
        setattr(response, kind, messages.read_text(data))
    else:
        setattr(response, f"{kind}_json", data.decode())
    return response
