"""The server's connection to its warden: packets of JSON; descriptors travel only to the warden."""

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

import msgspec

from venvd_contract.errors import Unavailable, from_fields
from venvd_contract.internal import messages
from venvd_contract.internal.control import SEND, close_descriptors, receive_data, rights
from venvd_contract.internal.messages import Exited, Greeting, Refused, Up, WallsReport, ZygoteReport
from venvd_core.wire import encode

_log = logging.getLogger("venvd.worker")

_ANSWER_TIMEOUT = 10.0
_RETRY_PAUSE = 0.05
_DELAY = 0.01
"""Seconds that a delayed command waits: no client waits for its answer."""
_FULL = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})
"""The kernel has no room for a packet now; it limits the descriptors in flight of all processes of a user together."""

SessionEvent = Exited | Refused | Up


class _Packet(msgspec.Struct):
    id: int | None = None
    result: msgspec.Raw = msgspec.Raw(b"{}")
    error: str | None = None
    code: str | None = None
    event: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"{}")


_packet = msgspec.json.Decoder(_Packet)
_events = {name: msgspec.json.Decoder(kind) for name, kind in messages.EVENTS.items()}


OnSessionEvent = Callable[[SessionEvent], None]
"""Takes an event of the warden about a session."""


class Link:
    """The connection to the warden, until either end closes it.

    Attributes:
        hello: the warden's answer to `hello`.
        zygote: the latest state of the zygote; None before the answer to `hello`.
        gone: done when the connection has ended; its result is the reason.
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
        self._waiting: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._delayed: list[bytes] = []
        self.gone: asyncio.Future[str] = loop.create_future()
        self.hello = Greeting()
        self.zygote: ZygoteReport | None = None
        loop.add_reader(sock.fileno(), self._receive)

    async def request(
        self,
        command: object,
        *,
        within: float = _ANSWER_TIMEOUT,
        descriptors: Sequence[int] = (),
        delayed: bool = False,
    ) -> msgspec.Raw:
        """Send a command of `messages` and wait for its result. The caller keeps the descriptors, and closes them.

        With `delayed`, the command is sent a moment later, or before the next command.

        Raises:
            Unavailable: the warden disconnected, or did not answer within `within` seconds, which drops the connection.
            VenvdError: the warden's error: the command failed.
        """
        future: asyncio.Future[msgspec.Raw] = self._loop.create_future()
        number = self._delay(command) if delayed else self._send(command, descriptors)
        self._waiting[number] = future
        if self.gone.done():
            raise Unavailable(self.gone.result())
        try:
            async with asyncio.timeout(within):
                return await future
        except TimeoutError:
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

    def _delay(self, command: object) -> int:
        number, packet = self._encode(command)
        if not self._delayed:
            self._loop.call_later(_DELAY, self._send_delayed)
        self._delayed.append(packet)
        return number

    def _send_delayed(self) -> None:
        if self._delayed and not self.gone.done():
            self._unsent.extend((packet, []) for packet in self._delayed)
            self._delayed.clear()
            self._flush()

    def _encode(self, command: object) -> tuple[int, bytes]:
        number = next(self._ids)
        return number, encode({"id": number, "command": messages.NAMES[type(command)], "data": command})

    def _send(self, command: object, descriptors: Sequence[int]) -> int:
        self._send_delayed()
        number, packet = self._encode(command)
        if not self.gone.done():
            self._unsent.append((packet, list(map(os.dup, descriptors))))
            self._flush()
        return number

    def _flush(self) -> None:
        if self.gone.done():
            return
        while self._unsent:
            packet, descriptors = self._unsent[0]
            try:
                self._sock.sendmsg([packet], rights(descriptors), SEND)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError as error:
                if error.errno in _FULL:
                    self._loop.call_later(_RETRY_PAUSE, self._flush)
                    return
                self.drop(f"the worker host went away ({error.strerror})")
                return
            self._unsent.popleft()
            close_descriptors(descriptors)
        self._loop.remove_writer(self._sock.fileno())

    # ---- receiving

    def _receive(self) -> None:
        while not self.gone.done():
            try:
                data, _, truncated, descriptors_refused = receive_data(self._sock)
            except BlockingIOError:
                return
            except OSError as error:
                self.drop(f"the worker host went away ({error.strerror})")
                return
            if not data:
                self.drop("the worker host went away")
            elif truncated:
                self.drop("the worker host sent a packet that is larger than the protocol allows")
            elif descriptors_refused:
                self.drop("the worker host sent a descriptor, which the protocol forbids")
            else:
                self._take_packet(data)

    def _take_packet(self, data: bytes) -> None:
        try:
            packet = _packet.decode(data)
            if packet.event is not None:
                self._take_event(packet.event, packet.data)
                return
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self.drop(f"the worker host sent an invalid packet: {error}")
            return
        future = self._waiting.get(packet.id or 0)
        if future is None or future.done():
            return
        if packet.error is not None:
            future.set_exception(from_fields({"error": packet.error, "code": packet.code}))
        else:
            future.set_result(packet.result)

    def _take_event(self, name: str, data: msgspec.Raw) -> None:
        decoder = _events.get(name)
        event = None if decoder is None else decoder.decode(data)
        if isinstance(event, SessionEvent):
            self._on_event(event)
        elif isinstance(event, ZygoteReport):
            self.zygote = event
            log_zygote(event)


def log_walls(walls: WallsReport) -> None:
    """Log how sessions are isolated."""
    level = logging.INFO if (walls.landlock or walls.namespaces) and walls.callFilter else logging.WARNING
    _log.log(level, "walls between sessions", extra={"fields": asdict(walls)})


def log_zygote(zygote: ZygoteReport) -> None:
    """Log the state of the zygote once it no longer starts."""
    if zygote.state == "starting":
        return
    seconds = {each.module: each.seconds for each in zygote.preload}
    fields = {"state": zygote.state, "why": zygote.why, "preload": seconds}
    level = logging.WARNING if zygote.why else logging.INFO
    _log.log(level, "zygote", extra={"fields": fields})
