"""Files over gRPC: messages of a stream are passed on one by one in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import Message

from venvd_contract.errors import InvalidRequest
from venvd_core.backend import Backend, Request
from venvd_proto.v1.python_service_pb2 import FileInfo, GetFileResponse
from venvd_rpc_backend import messages

SETTLE = 0.05
"""Seconds between the end of a stream and what follows from it: gRPC tells of the end of a stream that breaks, too, and
cancels its handler a moment later."""

Context = Any  # grpc.aio.ServicerContext, whose types are not told


async def send(backend: Backend, request: Request, context: Context) -> None:
    """Answer a `GetFile`.

    Raises:
        VenvdError: the file cannot be fetched, or became shorter meanwhile.
    """
    download = await backend.files.download(request)
    try:
        await context.write(GetFileResponse(info=messages.fill(FileInfo(), download.info)))
        async for piece in download.pieces():
            await context.write(GetFileResponse(chunk=piece))
    finally:
        download.close()


async def receive(backend: Backend, request: Request, requests: AsyncIterator[Any]) -> bytes:
    """Take what a `PutFile` brings; the file's info as JSON.

    Raises:
        VenvdError: the file cannot be stored, or the messages are in no order.
    """
    header = await _header(requests)
    request.payload = messages.payload(header)
    upload = await backend.files.upload(request)
    try:
        async for message in requests:
            if message.WhichOneof("part") != "chunk":
                raise InvalidRequest("PutFile: the header comes first and once, then chunks")
            await upload.write(message.chunk)
        if not header.HasField("size_bytes"):
            await asyncio.sleep(SETTLE)
        return await upload.commit()
    finally:
        upload.close()


async def _header(requests: AsyncIterator[Any]) -> Message:
    async for message in requests:
        if message.WhichOneof("part") == "header":
            header: Message = message.header
            return header
        break
    raise InvalidRequest("PutFile: the first message must be the header")
