"""`GetArray` and `PutArray`: a header and then chunks, at the speed of the slower side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from venvd_contract import arrays
from venvd_contract.arrays import Header
from venvd_contract.errors import DeadlineExceeded, InvalidRequest
from venvd_core.backend import Backend, Incoming, Outgoing, Reply, Target
from venvd_http.auth import tie_to
from venvd_proto import chunks
from venvd_proto.v1.python_service_pb2 import (
    ArrayHeader,
    GetArrayRequest,
    GetArrayResponse,
    PutArrayRequest,
    PutArrayResponse,
)
from venvd_rpc_backend import context as contexts
from venvd_rpc_backend import messages
from venvd_rpc_backend.calls import outlive
from venvd_rpc_backend.context import PeerGuard
from venvd_rpc_backend.status import refuse

Context = Any  # grpc.aio.ServicerContext, which has no types
T = TypeVar("T")


def parse_part(message: bytes) -> Header | memoryview:
    """Return the header or the chunk of a `PutArrayRequest`.

    Raises:
        InvalidRequest: it is no such message, is empty, or has an invalid header.
        TooLarge: the header describes an array over the limits.
    """
    chunk: memoryview | None = chunks.load(message)
    return _parse_message(message) if chunk is None else chunk


def _parse_message(message: bytes) -> Header | memoryview:
    try:
        request = PutArrayRequest.FromString(message)
    except DecodeError as error:
        raise InvalidRequest(f"this is no PutArrayRequest: {error}") from None
    kind = request.WhichOneof("part")
    if kind is None:
        raise InvalidRequest('a PutArrayRequest has a "header" or a "chunk"')
    if kind == "chunk":
        return memoryview(request.chunk)
    header = request.header
    fields = {"dtype": header.dtype, "shape": list(header.shape), "order": header.order or "C"}
    fields["format"] = header.format if header.HasField("format") else None
    fields["into"] = request.into if request.HasField("into") else None
    return arrays.read_header(fields)


def _target(fields: contexts.CallFields, context: Context) -> Target:
    return Target(fields.session, contexts.find_timeout(context), fields.call, fields.lease, caller=fields.caller)


class Arrays:
    """Answers `GetArray` and `PutArray`.

    Args:
        backend: the backend with the sessions.
        guard: checks the tokens.
        stall_timeout: seconds that a client may leave a chunk unread, or let the server wait for one.
        cancel: whether a call ends with its client.
    """

    def __init__(self, backend: Backend, guard: PeerGuard, stall_timeout: float, *, cancel: bool) -> None:
        self._backend = backend
        self._guard = guard
        self._stall_timeout = stall_timeout
        self._cancel = cancel

    def handlers(self, service: ServiceDescriptor) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return the handlers of both, if the service has these methods."""
        if "GetArray" not in service.methods_by_name:
            return {}
        return {
            "GetArray": grpc.unary_stream_rpc_method_handler(self._get, GetArrayRequest.FromString),
            "PutArray": grpc.stream_unary_rpc_method_handler(
                self._put, response_serializer=PutArrayResponse.SerializeToString
            ),
        }

    async def _get(self, message: GetArrayRequest, context: Context) -> None:
        try:
            fields = self._admit(context)
            with tie_to(fields.key):
                outgoing = await self._fetch(message, fields, context)
                try:
                    await self._send(outgoing, context)
                finally:
                    outgoing.close()
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)

    def _admit(self, context: Context) -> contexts.CallFields:
        fields = contexts.read_metadata(context.invocation_metadata())
        contexts.authorise(self._guard, fields, context)
        return fields

    async def _fetch(self, message: GetArrayRequest, fields: contexts.CallFields, context: Context) -> Outgoing:
        target = _target(fields, context)
        form = message.format if message.HasField("format") else None
        return await self._wait(self._backend.get_array(message.handle_id, target, form))

    async def _send(self, outgoing: Outgoing, context: Context) -> None:
        header = outgoing.header
        first = GetArrayResponse(header=ArrayHeader(**header.fields()))
        await self._limit_stall(context.write(first.SerializeToString()), "read")
        for piece in outgoing:
            await self._limit_stall(context.write(chunks.dump(piece)), "read")

    async def _put(self, _requests: Any, context: Context) -> Message | None:
        try:
            fields = self._admit(context)
            with tie_to(fields.key):
                reply = await self._receive(fields, context)
            return messages.fill(PutArrayResponse(), reply.result)
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)
            return None

    async def _receive(self, fields: contexts.CallFields, context: Context) -> Reply:
        header = await self._next(context)
        if not isinstance(header, Header):
            raise InvalidRequest("the first message of an array has its header, and only the others chunks")
        incoming = await self._backend.put_array(header, _target(fields, context))
        try:
            await self._fill(incoming, context)
            return await self._wait(incoming.commit())
        finally:
            incoming.close()

    async def _fill(self, incoming: Incoming, context: Context) -> None:
        while (piece := await self._next(context)) is not None:
            if isinstance(piece, Header):
                raise InvalidRequest("an array has one header, in the first message")
            incoming.write(piece)

    async def _next(self, context: Context) -> Header | memoryview | None:
        """Return the next header or chunk; None if the client has ended its side."""
        message = await self._limit_stall(context.read(), "sent")
        return None if message is grpc.aio.EOF else parse_part(message)

    async def _limit_stall(self, work: Awaitable[T], verb: str) -> T:
        try:
            async with asyncio.timeout(self._stall_timeout):
                return await work
        except TimeoutError:
            raise DeadlineExceeded(f"the client {verb} nothing for {self._stall_timeout:g} s") from None

    async def _wait(self, work: Awaitable[T]) -> T:
        """Wait for a call; a setting says whether it ends with its client."""
        return await (work if self._cancel else outlive(work))
