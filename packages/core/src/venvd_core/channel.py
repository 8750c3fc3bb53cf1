"""The server's end of `warden.sock`: packets of JSON with descriptors, over a connection that is renewed."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from venvd_contract.errors import Unavailable, VenvdError, from_fields
from venvd_contract.internal import SOCKET, messages
from venvd_contract.internal.control import close_descriptors, receive, rights
from venvd_contract.internal.messages import (
    Exited,
    Greeting,
    Hello,
    Refused,
    SegmentNews,
    Up,
    WallsReport,
    ZygoteReport,
)
from venvd_core.wire import encode

_log = logging.getLogger("venvd.worker")

_ANSWER_TIMEOUT = 10.0
_SHORT_PAUSE, _LONG_PAUSE = 0.02, 0.25
_SHORT_PAUSES = 250

SessionEvent = Exited | Refused | SegmentNews | Up


class _Packet(msgspec.Struct):
    id: int | None = None
    result: msgspec.Raw = msgspec.Raw(b"{}")
    error: str | None = None
    code: str | None = None
    event: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"{}")


class Answer(msgspec.Struct):
    """The result of a command; its receiver closes the descriptors."""

    result: msgspec.Raw
    descriptors: list[int]


_packet = msgspec.json.Decoder(_Packet)
_events = {name: msgspec.json.Decoder(kind) for name, kind in messages.EVENTS.items()}
_greeting = msgspec.json.Decoder(Greeting)


OnSessionEvent = Callable[[SessionEvent, list[int]], None]
"""Takes an event of the warden about a session, and closes the descriptors."""


class Link:
    """One connection to one warden, until either end closes it.

    Attributes:
        hello: the warden's answer to `hello`.
        zygote: the latest state of the zygote; None before the answer to `hello`.
        gone: is done, with the reason, when the connection has ended.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_event: OnSessionEvent,
        on_gone: Callable[[str], None],
    ) -> None:
        self._sock = sock
        self._loop = loop
        self._on_event = on_event
        self._on_gone = on_gone
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self.gone: asyncio.Future[str] = loop.create_future()
        self.hello = Greeting()
        self.zygote: ZygoteReport | None = None
        loop.add_reader(sock.fileno(), self._receive)

    async def request(
        self, command: object, *, within: float = _ANSWER_TIMEOUT, descriptors: Sequence[int] = ()
    ) -> Answer:
        """Send a command of `messages` and wait for its answer. The descriptors stay the caller's.

        Raises:
            Unavailable: the warden went away, or did not answer for `within` seconds, which drops the connection.
            VenvdError: the command failed; the warden's error.
        """
        future: asyncio.Future[Answer] = self._loop.create_future()
        number = self._send(command, descriptors)
        self._waiting[number] = future
        if self.gone.done():
            raise Unavailable(self.gone.result())
        try:
            async with asyncio.timeout(within):
                return await future
        except (TimeoutError, asyncio.CancelledError) as error:
            if future.done() and not future.cancelled() and future.exception() is None:
                close_descriptors(future.result().descriptors)
            if not isinstance(error, TimeoutError):
                raise
            self.drop(f"the worker host did not answer {messages.NAMES[type(command)]} within {within:g} s")
            raise Unavailable(self.gone.result()) from None
        finally:
            self._waiting.pop(number, None)

    def send(self, command: object) -> None:
        """Send a command of `messages` without waiting for its answer."""
        if not self.gone.done():
            self._send(command, ())

    def drop(self, why: str) -> None:
        """Close the connection; the warden then ends every session."""
        if self.gone.done():
            return
        self.gone.set_result(why)
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        while self._unsent:
            close_descriptors(self._unsent.popleft()[1])
        self._on_gone(why)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable(why))

    # ---- sending

    def _send(self, command: object, descriptors: Sequence[int]) -> int:
        number = next(self._ids)
        packet = encode({"id": number, "command": messages.NAMES[type(command)], "data": command})
        if not self.gone.done():
            self._unsent.append((packet, list(map(os.dup, descriptors))))
            self._flush()
        return number

    def _flush(self) -> None:
        while self._unsent:
            packet, descriptors = self._unsent[0]
            try:
                self._sock.sendmsg([packet], rights(descriptors))
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError as error:
                self.drop(f"the worker host went away ({error.strerror})")
                return
            self._unsent.popleft()
            close_descriptors(descriptors)
        self._loop.remove_writer(self._sock.fileno())

    # ---- receiving

    def _receive(self) -> None:
        while not self.gone.done():
            try:
                data, descriptors, truncated, descriptors_lost = receive(self._sock)
            except BlockingIOError:
                return
            except OSError as error:
                self.drop(f"the worker host went away ({error.strerror})")
                return
            if not data or truncated or descriptors_lost:
                close_descriptors(descriptors)
                too_large = "the worker host sent a packet that is larger than the protocol allows"
                self.drop(too_large if data else "the worker host went away")
                return
            self._take_packet(data, descriptors)

    def _take_event(self, name: str, data: msgspec.Raw, descriptors: list[int]) -> None:
        decoder = _events.get(name)
        event = None if decoder is None else decoder.decode(data)
        if isinstance(event, SessionEvent):
            self._on_event(event, descriptors)
            return
        close_descriptors(descriptors)
        if isinstance(event, ZygoteReport):
            self.zygote = event
            _log_zygote(event)

    def _take_packet(self, data: bytes, descriptors: list[int]) -> None:
        try:
            packet = _packet.decode(data)
            if packet.event is not None:
                self._take_event(packet.event, packet.data, descriptors)
                return
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            close_descriptors(descriptors)
            self.drop(f"the worker host sent an invalid packet: {error}")
            return
        future = self._waiting.get(packet.id or 0)
        if future is None or future.done():
            close_descriptors(descriptors)
        elif packet.error is not None:
            close_descriptors(descriptors)
            future.set_exception(from_fields({"error": packet.error, "code": packet.code}))
        else:
            future.set_result(Answer(packet.result, descriptors))


def _log_walls(walls: WallsReport) -> None:
    level = logging.INFO if walls.landlock and walls.callFilter else logging.WARNING
    _log.log(level, "walls between sessions", extra={"fields": asdict(walls)})


def _log_zygote(zygote: ZygoteReport) -> None:
    if zygote.state == "starting":
        return
    seconds = {each.module: each.seconds for each in zygote.preload}
    fields = {"state": zygote.state, "why": zygote.why, "preload": seconds}
    level = logging.WARNING if zygote.why else logging.INFO
    _log.log(level, "zygote", extra={"fields": fields})


class Channel:
    """Keeps a link to the warden that listens in `directory`.

    Args:
        directory: the channel's directory.
        hello: sent to each warden, with the descriptors.
        descriptors: stay open for as long as the channel does.
        on_event: takes the events about sessions.

    Attributes:
        link: the current connection; None while there is none.
        why: the reason why there is none.
    """

    def __init__(self, directory: Path, hello: Hello, descriptors: Sequence[int], on_event: OnSessionEvent) -> None:
        self._path = str(directory / SOCKET)
        self._hello = hello
        self._descriptors = descriptors
        self._on_event = on_event
        self._next_link: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.link: Link | None = None
        self.why = "the worker host is not there yet"

    def start(self) -> None:
        self._next_link = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep_connected(), name="channel")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self.link is not None:
            self.link.drop("this server is closing")

    async def wait_for_link(self) -> Link:
        """Return the link as soon as there is one.

        Raises:
            Unavailable: the channel has not been started.
        """
        while self.link is None:
            if self._next_link is None:
                raise Unavailable(self.why)
            await asyncio.shield(self._next_link)
        return self.link

    async def _keep_connected(self) -> None:
        tries = 0
        while True:
            link = await self._connect()
            if link is None:
                tries += 1
                await asyncio.sleep(_SHORT_PAUSE if tries < _SHORT_PAUSES else _LONG_PAUSE)
                continue
            tries = 0
            await asyncio.wait([link.gone])  # a plain await would cancel the future with this task

    def _on_link_gone(self, why: str) -> None:
        """Forget the link at once, so that no caller gets one that has ended."""
        self.why = why
        if self.link is not None:
            self.link = None
            self._next_link = asyncio.get_running_loop().create_future()

    async def _connect(self) -> Link | None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        try:
            sock.connect(self._path)
        except OSError as error:
            sock.close()
            if error.errno not in {errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN}:
                self.why = f"the worker host cannot be reached: {error.strerror}"
            return None
        link = Link(sock, asyncio.get_running_loop(), self._on_event, self._on_link_gone)
        try:
            answer = await link.request(self._hello, descriptors=self._descriptors)
            close_descriptors(answer.descriptors)
            link.hello = _greeting.decode(answer.result)
            if link.zygote is None:  # an event may have come before the answer
                link.zygote = link.hello.zygote
                _log_zygote(link.zygote)
            _log_walls(link.hello.walls)
        except (VenvdError, msgspec.MsgspecError) as error:
            link.drop(f"the worker host does not speak with this server: {error}")
            return None
        except asyncio.CancelledError:
            link.drop("this server is closing")
            raise
        self.link = link
        if self._next_link is not None and not self._next_link.done():
            self._next_link.set_result(None)
        return link
