"""`GetArray` and `PutArray`: a header and then chunks, at the pace of the slower side."""

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
from venvd_http.auth import TokenGuard
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
from venvd_rpc_backend.calls import refuse

Context = Any  # grpc.aio.ServicerContext, which has no types
T = TypeVar("T")


def part(message: bytes) -> Header | memoryview:
    """What a `PutArrayRequest` holds.

    Raises:
        InvalidRequest: it is none, or empty, or has a header that cannot be.
        TooLarge: the header announces an array that cannot be.
    """
    chunk: memoryview | None = chunks.load(message)
    return _parsed(message) if chunk is None else chunk


def _parsed(message: bytes) -> Header | memoryview:
    try:
        found = PutArrayRequest.FromString(message)
    except DecodeError as error:
        raise InvalidRequest(f"this is no PutArrayRequest: {error}") from None
    kind = found.WhichOneof("part")
    if kind is None:
        raise InvalidRequest('a PutArrayRequest has a "header" or a "chunk"')
    if kind == "chunk":
        return memoryview(found.chunk)
    header = found.header
    fields = {"dtype": header.dtype, "shape": list(header.shape), "order": header.order or "C"}
    fields["format"] = header.format if header.HasField("format") else None
    fields["into"] = found.into if found.HasField("into") else None
    return arrays.described(fields)


def _target(found: contexts.Asked, context: Context) -> Target:
    return Target(found.session, contexts.timeout(context), found.call, found.lease)


class Arrays:
    """Answers `GetArray` and `PutArray`.

    Args:
        patience: seconds that a client may leave a chunk unread, or let the server wait for one.
    """

    def __init__(self, backend: Backend, guard: TokenGuard, patience: float, *, cancel: bool) -> None:
        self._backend = backend
        self._guard = guard
        self._patience = patience
        self._cancel = cancel

    def handlers(self, service: ServiceDescriptor) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The handlers of both, where the service has them."""
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
            outgoing = await self._fetched(message, context)
            try:
                await self._pour(outgoing, context)
            finally:
                outgoing.close()
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)

    async def _fetched(self, message: GetArrayRequest, context: Context) -> Outgoing:
        found = contexts.asked(context.invocation_metadata())
        contexts.authorise(self._guard, found)
        target = _target(found, context)
        form = message.format if message.HasField("format") else None
        return await self._waited(self._backend.get_array(message.handle_id, target, form))

    async def _pour(self, outgoing: Outgoing, context: Context) -> None:
        header = outgoing.header
        first = GetArrayResponse(header=ArrayHeader(**header.fields()))
        await self._in_time(context.write(first.SerializeToString()), "read")
        for piece in outgoing:
            await self._in_time(context.write(chunks.dump(piece)), "read")

    async def _put(self, _requests: Any, context: Context) -> Message | None:
        try:
            reply = await self._taken(context)
            return messages.fill(PutArrayResponse(), reply.result)
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await refuse(context, error)
            return None

    async def _taken(self, context: Context) -> Reply:
        found = contexts.asked(context.invocation_metadata())
        contexts.authorise(self._guard, found)
        header = await self._next(context)
        if not isinstance(header, Header):
            raise InvalidRequest("the first message of an array has its header, and only the others chunks")
        incoming = await self._backend.put_array(header, _target(found, context))
        try:
            await self._fill(incoming, context)
            return await self._waited(incoming.commit())
        finally:
            incoming.close()

    async def _fill(self, incoming: Incoming, context: Context) -> None:
        while (piece := await self._next(context)) is not None:
            if isinstance(piece, Header):
                raise InvalidRequest("an array has one header, in the first message")
            incoming.write(piece)

    async def _next(self, context: Context) -> Header | memoryview | None:
        """The next message; None where the client has ended its side."""
        message = await self._in_time(context.read(), "sent")
        return None if message is grpc.aio.EOF else part(message)

    async def _in_time(self, work: Awaitable[T], what: str) -> T:
        try:
            async with asyncio.timeout(self._patience):
                return await work
        except TimeoutError:
            raise DeadlineExceeded(f"the client {what} nothing for {self._patience:g} s") from None

    async def _waited(self, work: Awaitable[T]) -> T:
        """What comes of it; it ends with its client, or where that is not wanted goes on without it."""
        return await (work if self._cancel else asyncio.shield(work))
