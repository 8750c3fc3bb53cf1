"""The file commands: as streams, or in parts on transports whose requests are whole messages."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from venvd_contract.errors import Busy, InvalidRequest, NotFound, TooLarge, VenvdError
from venvd_contract.internal.messages import TransferFile
from venvd_core import file_transfer, wire
from venvd_core.calls import Call, Reply, Request
from venvd_core.file_transfer import Download, FileProcess, OnEnd, Upload
from venvd_core.pool import Pool
from venvd_core.settings import BackendSettings
from venvd_core.timer import DeadlineTimer

LARGEST_PART = 16 << 20
"""Bytes of a file in one answer."""
MOST_UPLOADS = 16
"""Uploads in parts that may run at a time."""

_LARGEST_PAYLOAD = 64 * 1024
_STREAM_TIMEOUT = 24 * 3600.0
_ID_BYTES = 16


class _Part(msgspec.Struct):
    more: bool | None = None
    upload: str | None = None


_part = msgspec.json.Decoder(_Part)


@dataclass
class _PartedUpload:
    """An upload in parts; the writer of a part holds `turn`."""

    session: str
    upload: Upload
    turn: asyncio.Lock


class Files:
    """The files of the sessions of one backend.

    Attributes:
        commands: the functions that answer requests without a stream, by command.
    """

    def __init__(self, pool: Pool, settings: BackendSettings) -> None:
        self.commands: dict[str, Callable[[Request], Awaitable[Reply]]] = {
            "file.get": self._get,
            "file.put": self._put,
            "file.list": self._run,
            "file.delete": self._run,
        }
        self._pool = pool
        self._largest = settings.max_file_bytes
        self._part_timeout = settings.upload_timeout
        self._timeout = settings.default_timeout
        self._uploads: dict[str, _PartedUpload] = {}
        self._timer = DeadlineTimer(asyncio.get_running_loop(), self._expire)

    def close(self) -> None:
        self._timer.cancel()
        for parted in self._uploads.values():
            parted.upload.close()
        self._uploads.clear()

    # ---- streams

    async def download(self, request: Request) -> Download:
        """Begin to fetch the file that a `file.get` names; the caller closes it.

        Raises:
            VenvdError: it cannot be fetched.
        """
        on_end = self._recorder(request)
        try:
            return await self._download(request, on_end)
        except VenvdError as error:
            on_end(error, 0)
            raise

    async def upload(self, request: Request) -> Upload:
        """Begin to store the file that a `file.put` names; the caller commits and closes it.

        Raises:
            VenvdError: it cannot be stored.
        """
        on_end = self._recorder(request)
        try:
            return await self._upload(request, on_end)
        except VenvdError as error:
            on_end(error, 0)
            raise

    def _recorder(self, request: Request) -> OnEnd:
        """Return a callback that counts a streamed transfer as a call."""
        call = Call(request)
        call.received_at = time.monotonic()
        metrics = self._pool.metrics

        def record(error: VenvdError | None, size: int) -> None:
            outcome = "ok" if error is None else error.code
            seconds = time.monotonic() - call.received_at
            metrics.record_call(call, outcome, seconds, session=request.session, error=error)
            metrics.record_bytes(size, out=request.command == "file.get")

        return record

    async def _download(self, request: Request, on_end: OnEnd | None = None) -> Download:
        process = await self._start(request, _STREAM_TIMEOUT)
        try:
            return Download(process, await process.receive_found(), on_end)
        except BaseException:
            process.close()
            raise

    async def _upload(self, request: Request, on_end: OnEnd | None = None) -> Upload:
        process = await self._start(request, _STREAM_TIMEOUT)
        try:
            await process.receive()
        except BaseException:
            process.close()
            raise
        return Upload(process, on_end)

    async def _start(self, request: Request, within: float) -> FileProcess:
        payload = wire.check_payload(request.payload)
        if len(payload) > _LARGEST_PAYLOAD:
            raise InvalidRequest(f"{request.command}: the request has more than {_LARGEST_PAYLOAD} bytes")
        session = self._pool.find(request.session)
        command = TransferFile(session.spec.id, request.command, self._largest, msgspec.Raw(payload), within)
        return await file_transfer.start(self._pool.channel, command, session)

    # ---- whole requests and replies; the caller counts these calls

    async def _run(self, request: Request) -> Reply:
        """Run a `file.list` or a `file.delete`."""
        process = await self._start(request, request.timeout or self._timeout)
        try:
            return Reply(bytes(await process.receive()))
        finally:
            process.close()

    async def _get(self, request: Request) -> Reply:
        """Run a `file.get`; the bytes are the attachment.

        Raises:
            TooLarge: they are more than `LARGEST_PART`.
        """
        download = await self._download(request)
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

    async def _put(self, request: Request) -> Reply:
        """Run a `file.put`; the attachment is one part of the file, or all of it.

        Raises:
            NotFound: there is no such upload, or it ended because its next part came too late.
        """
        part = _part.decode(wire.check_payload(request.payload))
        session = self._pool.find(request.session).spec.id
        if part.upload is None:
            identity, parted = await self._begin(request, session)
        else:
            identity, parted = part.upload, self._find(part.upload, session)
        try:
            async with parted.turn:
                self._find(identity, session)  # the part before may have ended the upload
                for data in request.attachments or ():
                    await parted.upload.write(data)
                if part.more:
                    self._timer.schedule(parted.upload.last_used + self._part_timeout)
                    return Reply(wire.encode({"upload": identity}))
                return Reply(await parted.upload.commit())
        except BaseException:
            parted.upload.close()
            self._uploads.pop(identity, None)
            raise
        finally:
            if not part.more:
                self._uploads.pop(identity, None)

    async def _begin(self, request: Request, session: str) -> tuple[str, _PartedUpload]:
        if len(self._uploads) >= MOST_UPLOADS:
            raise Busy(f"{MOST_UPLOADS} uploads in parts are running, which is the limit: try again")
        identity = secrets.token_hex(_ID_BYTES)
        parted = _PartedUpload(session, await self._upload(request), asyncio.Lock())
        self._uploads[identity] = parted
        return identity, parted

    def _find(self, identity: str, session: str) -> _PartedUpload:
        parted = self._uploads.get(identity)
        if parted is None or parted.session != session:
            why = f"it never began, it has ended, or its next part did not come within {self._part_timeout:g} s"
            raise NotFound(f'there is no upload "{identity[:80]}" in this session: {why}')
        return parted

    def _expire(self, now: float) -> float | None:
        for identity, parted in list(self._uploads.items()):
            if parted.upload.last_used + self._part_timeout <= now and not parted.turn.locked():
                parted.upload.close()
                del self._uploads[identity]
        due = (parted.upload.last_used + self._part_timeout for parted in self._uploads.values())
        return min((max(each, now + 1) for each in due), default=None)
