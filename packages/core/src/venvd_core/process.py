"""One process of a session, from its start to its end, as the warden tells it."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import asdict
from typing import Any

import msgspec

from venvd_contract.commands import Limits
from venvd_contract.errors import NotFound, Unavailable, VenvdError
from venvd_core.channel import Answer, Exited, Link
from venvd_core.limits import largest_reply
from venvd_core.segments import Segments
from venvd_core.stream import Reader, Stream
from venvd_core.wire import encode

_START_WITHIN = 60.0
_KILL_WITHIN = 15.0
_EVENT_WITHIN = 1.0


class _Started(msgspec.Struct):
    pid: int


_started = msgspec.json.Decoder(_Started)


class Process:
    """A session's process that was started; `ended` is done when its whole tree is gone."""

    def __init__(self, session: str, link: Link, pid: int) -> None:
        self.session = session
        self.link = link
        self.pid = pid
        self.stream: Stream | None = None
        self.segments = Segments(self._tell)
        self.blame: str | None = None
        self.ended: asyncio.Future[Exited] = asyncio.get_running_loop().create_future()

    def exited(self, event: Exited) -> None:
        if not self.ended.done():
            self.ended.set_result(event)

    async def wait(self) -> Exited:
        """How it ended; the end of the link is the end of its sessions."""
        await self._over(None)
        if self.ended.done():
            return self.ended.result()
        return Exited(self.session, self.pid, f"ended with its worker host: {self.link.gone.result()}", "worker host")

    async def _over(self, within: float | None) -> None:
        either: list[asyncio.Future[Any]] = [self.ended, self.link.gone]
        await asyncio.wait(either, timeout=within, return_when=asyncio.FIRST_COMPLETED)

    def how(self, event: Exited) -> str:
        """How it ended, without the subject, with what the server ended it for."""
        return f"was ended because it {self.blame}" if self.blame is not None else event.how

    def interrupt(self, sequence: int, reason: str, grace: float) -> None:
        self.link.tell("interrupt", session=self.session, seq=sequence, reason=reason, grace=grace)

    def ask(self, number: int) -> None:
        """Have the session write a number into its slot, as soon as it reads what the server says."""
        self._tell(encode({"pulse": number}) + b"\n")

    async def kill(self, reason: str) -> None:
        """End the whole tree. A warden that cannot is dropped, and with it everything that it runs."""
        await kill(self.link, self.session, reason)
        await self._over(_EVENT_WITHIN)
        self.exited(Exited(self.session, self.pid, f"was killed: {reason}", "kill"))

    def _tell(self, line: bytes) -> None:
        if self.stream is not None and not self.stream.over:
            self.stream.write(line)

    def close(self) -> None:
        self.segments.close()
        if self.stream is not None:
            self.stream.close()


async def kill(link: Link, session: str, reason: str) -> None:
    """Have the warden end whatever runs as `session`, if anything does."""
    try:
        await link.request("kill", within=_KILL_WITHIN, session=session, reason=reason)
    except NotFound:
        return
    except VenvdError as error:
        link.drop(f"the worker host could not end the session {session}: {error}")


async def start(link: Link, reader: Reader, *, session: str, slot: int, limits: Limits, env: dict[str, str]) -> Process:
    """Start the process of a session.

    Raises:
        Unavailable: the warden is away, or could not start it; says why.
    """
    try:
        answer = await link.request(
            "start", within=_START_WITHIN, session=session, slot=slot, limits=asdict(limits), env=env
        )
        sock, pid = _unpack(answer)
    except Unavailable:
        raise
    except VenvdError as error:
        raise Unavailable(error.message) from None
    process = Process(session, link, pid)
    loop = asyncio.get_running_loop()
    try:
        _, process.stream = await loop.create_unix_connection(lambda: Stream(reader, largest_reply(limits)), sock=sock)
    except BaseException:
        sock.close()
        raise
    return process


def _unpack(answer: Answer) -> tuple[socket.socket, int]:
    """The session's stream and its pid, if the warden gave them."""
    try:
        (descriptor,) = answer.descriptors
        pid = _started.decode(answer.result).pid
        sock = socket.socket(fileno=descriptor)
    except (ValueError, OSError, msgspec.MsgspecError) as error:
        for descriptor in answer.descriptors:
            os.close(descriptor)
        raise Unavailable(f"the worker host gave no usable session: {error}") from None
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        sock.close()
        raise Unavailable("the worker host gave no stream for the session")
    sock.setblocking(False)
    return sock, pid
