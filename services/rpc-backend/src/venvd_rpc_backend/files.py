"""Files over gRPC: the server passes on each message of a stream as it arrives, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import Message

from venvd_contract.errors import InvalidRequest
from venvd_core.backend import Backend, Request
from venvd_proto.v1.python_service_pb2 import FileInfo, GetFileResponse
from venvd_rpc_backend import messages

COMMIT_PAUSE = 0.05
"""Seconds between the end of an upload without a size and its commit: gRPC reports a broken stream as ended, and
cancels the handler a moment later."""

Context = Any  # grpc.aio.ServicerContext, which has no types


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
    """Store the file of a `PutFile`; return its info as JSON.

    Raises:
        VenvdError: the file cannot be stored, or its messages are out of order.
    """
    header = await _read_header(requests)
    request.payload = messages.write_payload(header)
    upload = await backend.files.upload(request)
    try:
        async for message in requests:
            if message.WhichOneof("part") != "chunk":
                raise InvalidRequest("PutFile: the header comes first and once, then chunks")
            await upload.write(message.chunk)
        if not header.HasField("size_bytes"):
            await asyncio.sleep(COMMIT_PAUSE)
        return await upload.commit()
    finally:
        upload.close()


async def _read_header(requests: AsyncIterator[Any]) -> Message:
    async for message in requests:
        if message.WhichOneof("part") == "header":
            header: Message = message.header
            return header
        break
    raise InvalidRequest("PutFile: the first message must be the header")
