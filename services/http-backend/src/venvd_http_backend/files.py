"""Files over HTTP: bodies are the files themselves, passed on piece by piece in both directions."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.responses import Response

from venvd_contract.errors import InvalidRequest, VenvdError
from venvd_core.backend import Backend, Request
from venvd_core.files import LARGEST_PART
from venvd_core.monitor import Receive, Scope, Send, refuse, respond
from venvd_core.transfers import Download, Upload
from venvd_core.wire import encode
from venvd_http_backend.commands import Commands
from venvd_http_backend.incoming import SWALLOWED, ClientGone, Head, read_body

STREAMED = frozenset({"file.get", "file.put"})
COMMANDS = frozenset({"file.list", "file.delete", *STREAMED})

_CONTENT = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
RESPONSES: dict[str, dict[int | str, dict[str, Any]]] = {
    "GetFile": {200: {"description": "The file", **_CONTENT}, 206: {"description": "The part asked for", **_CONTENT}}
}
BODIES: dict[str, dict[str, Any]] = {"PutFile": {"requestBody": {"required": True, **_CONTENT}}}
"""Of routes, for the schema."""

_SAFE = (
    (b"content-type", b"application/octet-stream"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-disposition", b"attachment"),
    (b"accept-ranges", b"bytes"),
    (b"cache-control", b"no-store"),
)
"""No browser shall take what user code wrote for a page of ours."""
_CLOSE = ((b"connection", b"close"),)
_RANGE = re.compile(rb"bytes=([0-9]{1,18})-([0-9]{0,18})")


class _Info(msgspec.Struct):
    sizeBytes: int  # noqa: N815 — names on the wire
    modifiedAt: str  # noqa: N815


_info = msgspec.json.Decoder(_Info)


def named(scope: Scope) -> dict[str, str]:
    """The path of a file as the request's target has it, where it has one; its bytes, where they are no UTF-8."""
    raw = scope["raw_path"].partition(b"/files/")[2]
    if not raw:
        return {}
    path = unquote_to_bytes(raw)
    try:
        return {"path": path.decode()}
    except UnicodeDecodeError:
        return {"pathBytes": b64encode(path).decode()}


class Answer(Response):
    """Answers a `file.get` or a `file.put`."""

    def __init__(self, commands: Commands, command: str, payload: dict[str, Any], session: str) -> None:
        super().__init__()
        self._commands = commands
        self._backend: Backend = commands.backend
        self._patience = commands.stall_timeout
        self._command = command
        self._payload = payload
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = self._commands.admit(scope)
        request = Request(self._command, b"", self._session, head.timeout, name=head.call)
        try:
            if self._command == "file.get":
                await self._get(request, scope, receive, send)
            elif self._payload.get("more") or self._payload.get("upload"):
                await self._put_part(request, head, receive, send)
            else:
                await self._put(request, receive, send)
        except ClientGone:
            return

    # ---- get

    async def _get(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        part = _range(scope)
        if part is not None:
            self._payload |= {"offset": part.offset, "length": part.length}
        request.payload = encode(self._payload)
        try:
            download = await self._backend.files.download(request)
        except VenvdError as error:
            await refuse(send, error)
            return
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            status, headers = _described(download, ranged=part is not None)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await self._pass_on(download.pieces(), gone, send)
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            download.close()

    async def _pass_on(self, pieces: AsyncIterator[bytes], gone: asyncio.Future[None], send: Send) -> None:
        async for piece in pieces:
            if gone.done():
                raise ClientGone
            try:
                async with asyncio.timeout(self._patience):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except TimeoutError:
                raise ClientGone from None

    # ---- put

    async def _put(self, request: Request, receive: Receive, send: Send) -> None:
        request.payload = encode(self._payload)
        body = _Body(receive, self._patience)
        upload: Upload | None = None
        try:
            upload = await self._backend.files.upload(request)
            async for piece in body:
                await upload.write(piece)
            stored = await upload.commit()
        except VenvdError as error:
            whole = await body.swallowed()
            await refuse(send, error, headers=() if whole else _CLOSE)
        else:
            await respond(send, 200, stored)
        finally:
            if upload is not None:
                upload.close()

    async def _put_part(self, request: Request, head: Head, receive: Receive, send: Send) -> None:
        try:
            data = await read_body(head, receive, LARGEST_PART, self._patience)
            request.payload, request.attachments = encode(self._payload), [data]
            reply = await self._backend.call(request)
        except VenvdError as error:
            await refuse(send, error, headers=_CLOSE)
        else:
            await respond(send, 200, reply.result)


class _Body:
    """The body of a request, piece by piece."""

    def __init__(self, receive: Receive, patience: float) -> None:
        self._receive = receive
        self._patience = patience
        self._more = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._more:
            yield await self._piece()

    async def _piece(self) -> bytes:
        try:
            async with asyncio.timeout(self._patience):
                message = await self._receive()
        except TimeoutError:
            raise InvalidRequest("the body stopped coming") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        self._more = message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    async def swallowed(self) -> bool:
        """Read on, so that a client that only writes gets to see its answer; whether all is read."""
        size = 0
        while self._more and size < SWALLOWED:
            try:
                size += len(await self._piece())
            except InvalidRequest:
                break
        return not self._more


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Part(NamedTuple):
    offset: int
    length: int | None


def _range(scope: Scope) -> _Part | None:
    """The one range that is asked for; anything else in that header may be ignored."""
    for name, value in scope["headers"]:
        found = _RANGE.fullmatch(value) if name == b"range" else None
        if found:
            first, last = found.groups()
            if not last or int(last) >= int(first):
                return _Part(int(first), int(last) - int(first) + 1 if last else None)
    return None


def _described(download: Download, *, ranged: bool) -> tuple[int, list[tuple[bytes, bytes]]]:
    info = _info.decode(download.info)
    headers = [
        *_SAFE,
        (b"content-length", b"%d" % download.length),
        (b"etag", f'"{info.sizeBytes}-{info.modifiedAt}"'.encode()),
    ]
    if not ranged:
        return 200, headers
    if not download.length:
        return 416, [*headers, (b"content-range", b"bytes */%d" % info.sizeBytes)]
    last = download.offset + download.length - 1
    return 206, [*headers, (b"content-range", b"bytes %d-%d/%d" % (download.offset, last, info.sizeBytes))]
