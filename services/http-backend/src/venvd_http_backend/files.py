"""Files over HTTP: bodies are the bytes of files, which the server passes on piece by piece in both directions."""

from __future__ import annotations

import asyncio
import re
from typing import Any, NamedTuple

import msgspec

from venvd_contract.errors import VenvdError
from venvd_core.backend import Request
from venvd_core.file_transfer import Download, Upload
from venvd_core.files import LARGEST_PART
from venvd_core.wire import encode
from venvd_http.asgi import Headers, respond
from venvd_http.clients import ClientGone, wait_for_disconnect
from venvd_http_backend.commands import Commands
from venvd_http_backend.request import HttpRequest
from venvd_http_backend.streaming import send_piece

_SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-disposition", b"attachment"),
    (b"accept-ranges", b"bytes"),
    (b"cache-control", b"no-store"),
)
"""Prevent a browser from showing a file of user code as a page of the server."""
_RANGE = re.compile(rb"bytes=([0-9]{1,18})-([0-9]{0,18})")


_FILE, _ARCHIVE = b"application/octet-stream", b"application/x-tar"


class _Info(msgspec.Struct):
    sizeBytes: int  # noqa: N815 — names on the wire
    modifiedAt: str  # noqa: N815
    isDirectory: bool = False  # noqa: N815


_info = msgspec.json.Decoder(_Info)


class Files:
    """Serves the files of sessions."""

    def __init__(self, commands: Commands) -> None:
        self._backend = commands.backend
        self._stall_timeout = commands.stall_timeout

    async def serve_get(self, request: HttpRequest, payload: dict[str, Any]) -> None:
        """Send a file or a part of it."""
        part = _read_range(request)
        if part is not None:
            payload |= {"offset": part.offset, "length": part.length}
        download = await self._backend.files.download(_make_request("file.get", request, payload))
        gone = asyncio.ensure_future(wait_for_disconnect(request.receive))
        try:
            status, headers = _describe(download, ranged=part is not None)
            await request.send({"type": "http.response.start", "status": status, "headers": headers})
            async for piece in download.pieces():
                if gone.done():
                    raise ClientGone
                await send_piece(request, piece, self._stall_timeout)
            await request.send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            download.close()

    async def serve_put(self, request: HttpRequest, payload: dict[str, Any]) -> None:
        """Receive a file, whole or as one of several parts."""
        call = _make_request("file.put", request, payload)
        try:
            if payload.get("more") or payload.get("upload"):
                call.attachments = [await request.body.read(LARGEST_PART)]
                stored = (await self._backend.call(call)).result
            else:
                stored = await self._store(call, request)
        except VenvdError:
            await request.body.swallow()
            raise
        await respond(request.send, 200, stored)

    async def _store(self, call: Request, request: HttpRequest) -> bytes:
        upload: Upload = await self._backend.files.upload(call)
        try:
            async for piece in request.body.pieces():
                await upload.write(piece)
            return await upload.commit()
        finally:
            upload.close()


def _make_request(command: str, request: HttpRequest, payload: dict[str, Any]) -> Request:
    """Make the request for core."""
    head = request.head
    return Request(command, encode(payload), head.session, head.timeout, name=head.call, caller=head.caller)


class _Part(NamedTuple):
    offset: int
    length: int | None


def _read_range(request: HttpRequest) -> _Part | None:
    """Return the single range of the header `Range`; ignore other kinds of ranges."""
    match = _RANGE.fullmatch(request.header(b"range"))
    if match is None:
        return None
    first, last = match.groups()
    if last and int(last) < int(first):
        return None
    return _Part(int(first), int(last) - int(first) + 1 if last else None)


def _describe(download: Download, *, ranged: bool) -> tuple[int, Headers]:
    info = _info.decode(download.info)
    headers: Headers = (
        (b"content-type", _ARCHIVE if info.isDirectory else _FILE),
        *_SAFE,
        (b"content-length", b"%d" % download.length),
        (b"etag", f'"{info.sizeBytes}-{info.modifiedAt}"'.encode()),
    )
    if not ranged:
        return 200, headers
    if not download.length:
        return 416, (*headers, (b"content-range", b"bytes */%d" % info.sizeBytes))
    last = download.offset + download.length - 1
    return 206, (*headers, (b"content-range", b"bytes %d-%d/%d" % (download.offset, last, info.sizeBytes)))
