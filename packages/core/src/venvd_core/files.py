"""Files of sessions: streams for the transports that have them, parts for those whose requests are whole."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from venvd_contract.errors import Busy, InvalidRequest, NotFound, TooLarge, VenvdError
from venvd_contract.internal.messages import TransferFile
from venvd_core import file_transfer, wire
from venvd_core.calls import Call, Reply, Request
from venvd_core.file_transfer import FileTransfer
from venvd_core.pool import Pool
from venvd_core.settings import BackendSettings
from venvd_core.timer import DeadlineTimer
from venvd_core.transfers import Download, Got, Over, Upload

LARGEST_PART = 16 << 20
"""Bytes of a file in one answer."""
MOST_UPLOADS = 16
"""Files that come in parts, under way at a time."""

_LARGEST_PAYLOAD = 64 * 1024
_LONGEST = 24 * 3600.0
_ID_BYTES = 16


class _Part(msgspec.Struct):
    more: bool | None = None
    upload: str | None = None


_got = msgspec.json.Decoder(Got)
_part = msgspec.json.Decoder(_Part)


@dataclass
class _Open:
    """A file that comes in parts, one after the other."""

    session: str
    upload: Upload
    turn: asyncio.Lock


class Files:
    """The files of the sessions of one backend."""

    def __init__(self, pool: Pool, settings: BackendSettings) -> None:
        self._pool = pool
        self._largest = settings.max_file_bytes
        self._patience = settings.upload_timeout
        self._timeout = settings.default_timeout
        self._open: dict[str, _Open] = {}
        self._timer = DeadlineTimer(asyncio.get_running_loop(), self._expire)

    def close(self) -> None:
        self._timer.cancel()
        for each in self._open.values():
            each.upload.close()
        self._open.clear()

    # ---- streams

    async def download(self, request: Request) -> Download:
        """Begin to fetch the file that a `file.get` asks for; who asks closes it.

        Raises:
            VenvdError: it cannot be fetched.
        """
        over = self._counting(request)
        try:
            return await self._download(request, over)
        except VenvdError as error:
            over(error, 0)
            raise

    async def upload(self, request: Request) -> Upload:
        """Begin to store the file that a `file.put` names; who asks commits or closes it.

        Raises:
            VenvdError: it cannot be stored.
        """
        over = self._counting(request)
        try:
            return await self._upload(request, over)
        except VenvdError as error:
            over(error, 0)
            raise

    def _counting(self, request: Request) -> Over:
        call = Call(request)
        call.received_at = time.monotonic()
        metrics = self._pool.metrics

        def over(error: VenvdError | None, size: int) -> None:
            outcome = "ok" if error is None else error.code
            metrics.record_call(
                call, outcome, time.monotonic() - call.received_at, session=request.session, error=error
            )
            metrics.record_bytes(size, out=request.command == "file.get")

        return over

    async def _download(self, request: Request, over: Over) -> Download:
        carrier = await self._send(request, _LONGEST)
        try:
            return Download(carrier, over, _got.decode(await carrier.answer()))
        except BaseException:
            carrier.close()
            raise

    async def _upload(self, request: Request, over: Over) -> Upload:
        carrier = await self._send(request, _LONGEST)
        try:
            await carrier.answer()
        except BaseException:
            carrier.close()
            raise
        return Upload(carrier, over)

    async def _send(self, request: Request, within: float) -> FileTransfer:
        payload = wire.checked(request.payload)
        if len(payload) > _LARGEST_PAYLOAD:
            raise InvalidRequest(f"{request.command}: the request has more than {_LARGEST_PAYLOAD} bytes")
        session = self._pool.find(request.session)
        command = TransferFile(session.spec.id, request.command, self._largest, msgspec.Raw(payload), within)
        carrier = await file_transfer.start(self._pool.channel, command)
        carrier.work_for(session)
        return carrier

    # ---- whole answers

    async def ask(self, request: Request) -> Reply:
        """Do a `file.list` or a `file.delete`.

        Raises:
            VenvdError: the file process failed; its own error.
        """
        carrier = await self._send(request, request.timeout or self._timeout)
        try:
            return Reply(bytes(await carrier.answer()))
        finally:
            carrier.close()

    async def get(self, request: Request) -> Reply:
        """Do a `file.get`: the bytes are the attachment.

        Raises:
            TooLarge: they are more than `LARGEST_PART`.
        """
        download = await self._download(request, _uncounted)
        try:
            if download.length > LARGEST_PART:
                raise TooLarge(
                    f"{download.length} bytes are more than the {LARGEST_PART} that fit into one answer: "
                    "fetch the file in parts, with offset and length"
                )
            data = b"".join([piece async for piece in download.pieces()])
            return Reply(download.info, [data])
        finally:
            download.close()

    async def put(self, request: Request) -> Reply:
        """Do a `file.put`: the bytes are the attachment, one part of the file or all of it.

        Raises:
            NotFound: the upload that it names is none, or was given up because its next part did not come.
        """
        part = _part.decode(wire.checked(request.payload))
        session = self._pool.find(request.session).spec.id
        if part.upload is None:
            identity, opened = await self._begin(request, session)
        else:
            identity, opened = part.upload, self._find(part.upload, session)
        try:
            async with opened.turn:
                self._find(identity, session)  # the part before may have been the last, or gone wrong
                for data in request.attachments or ():
                    await opened.upload.write(data)
                if part.more:
                    self._timer.schedule(opened.upload.used + self._patience)
                    return Reply(wire.encode({"upload": identity}))
                return Reply(await opened.upload.commit())
        except BaseException:
            opened.upload.close()
            self._open.pop(identity, None)
            raise
        finally:
            if not part.more:
                self._open.pop(identity, None)

    async def _begin(self, request: Request, session: str) -> tuple[str, _Open]:
        if len(self._open) >= MOST_UPLOADS:
            raise Busy(f"{MOST_UPLOADS} files come in parts already: try again")
        identity = secrets.token_hex(_ID_BYTES)
        opened = _Open(session, await self._upload(request, _uncounted), asyncio.Lock())
        self._open[identity] = opened
        return identity, opened

    def _find(self, identity: str, session: str) -> _Open:
        opened = self._open.get(identity)
        if opened is None or opened.session != session:
            why = f"it never was, it has ended, or its next part did not come within {self._patience:g} s"
            raise NotFound(f'there is no upload "{identity[:80]}" in this session: {why}')
        return opened

    def _expire(self, now: float) -> float | None:
        for identity, opened in list(self._open.items()):
            if opened.upload.used + self._patience <= now and not opened.turn.locked():
                opened.upload.close()
                del self._open[identity]
        return min((max(each.upload.used + self._patience, now + 1) for each in self._open.values()), default=None)

    @property
    def served(self) -> dict[str, Any]:
        """What answers which command."""
        return {"file.get": self.get, "file.put": self.put, "file.list": self.ask, "file.delete": self.ask}


def _uncounted(_error: VenvdError | None, _size: int) -> None:
    """Who asked for the whole counts it."""
