"""One process of a session, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import asdict
from typing import Any, NamedTuple

import msgspec

from venvd_contract.errors import NotFound, Unavailable, VenvdError
from venvd_contract.internal.messages import Exited, Interrupt, Kill, Start, Started
from venvd_contract.session_requests import Limits
from venvd_core.link import Link
from venvd_core.segments import Segments
from venvd_core.session.stream import OnBroken, OnLine, Stream, largest_events, largest_reply
from venvd_core.session.venvs import VenvRequests
from venvd_core.wire import encode

_START_TIMEOUT = 60.0
_KILL_TIMEOUT = 60.0
"""Seconds for the end of a process tree. They are many, as a busy machine delays it: a timeout ends every session."""
_EXITED_TIMEOUT = 1.0
"""Seconds between the warden's answer to `kill` and its event `exited`."""


_started = msgspec.json.Decoder(Started)


class Process:
    """A started process of a session.

    Attributes:
        stream: carries the server's requests and the session's replies.
        venvs: answers its requests about venvs; None if the backend manages none.
        segments: the memory that the process shares with the server.
        exited: done when the whole process tree is gone.
        kill_reason: the server's reason to kill it, or None.
    """

    def __init__(self, session: str, link: Link, pid: int, stream: Stream, segments: Segments) -> None:
        self.session = session
        self.link = link
        self.pid = pid
        self.stream = stream
        self.venvs: VenvRequests | None = None
        self.segments = segments
        self.exited: asyncio.Future[Exited] = asyncio.get_running_loop().create_future()
        self.kill_reason: str | None = None

    def hand_over(self, session: str, on_line: OnLine, on_broken: OnBroken) -> None:
        """Give the process of a standby to a session, which gets its lines from now on."""
        self.session = session
        self.stream.hand_over(on_line, on_broken)
        self.segments.on_broken = on_broken

    def on_exited(self, event: Exited) -> None:
        if not self.exited.done():
            self.exited.set_result(event)

    async def wait(self) -> Exited:
        """Wait for the end, and return how the process ended. The end of the link ends its sessions."""
        either: list[asyncio.Future[Any]] = [self.exited, self.link.gone]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self.exited.done():
            return self.exited.result()
        return Exited(self.session, self.pid, f"ended with its worker host: {self.link.gone.result()}", "worker host")

    def interrupt(self, sequence: int, reason: str, grace: float) -> None:
        """Have the warden interrupt the call `sequence`, and kill the process if it runs on after `grace` seconds."""
        self.link.send(Interrupt(self.session, sequence, reason, grace))

    def ask_heartbeat(self, number: int) -> None:
        """Ask the session to write `number` into its slot."""
        self.stream.tell(encode({"heartbeat": number}) + b"\n")

    async def kill(self, reason: str) -> None:
        """End the whole process tree."""
        await kill(self.link, self.session, reason)
        try:
            await asyncio.wait_for(self.wait(), _EXITED_TIMEOUT)
        except TimeoutError:
            self.on_exited(Exited(self.session, self.pid, f"was killed: {reason}", "kill"))

    def close(self) -> None:
        self.segments.close()
        if self.venvs is not None:
            self.venvs.close()
        self.stream.close()


async def kill(link: Link, session: str, reason: str) -> None:
    """Have the warden end the process tree of `session`, if there is one.

    If the warden fails, drop its connection, which ends every session.
    """
    try:
        await link.request(Kill(session, reason), within=_KILL_TIMEOUT)
    except NotFound:
        return
    except VenvdError as error:
        link.drop(f"the worker host could not end the session {session}: {error}")


async def start(
    link: Link, on_line: OnLine, on_broken: OnBroken, *, session: str, slot: int, limits: Limits, env: dict[str, str],
    lease: float, compat: bool, standby: bool = False, cwd: str = "",
) -> Process:  # fmt: skip
    """Start the process of a session, with connections whose near ends never leave the server.

    Raises:
        Unavailable: the warden is not connected, or could not start it; the message says why.
    """
    stream = Stream(on_line, on_broken, max(largest_reply(limits), largest_events(limits)))
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        stream_end = _connect(theirs, ours, socket.SOCK_STREAM)
        supply_end = _connect(theirs, ours, socket.SOCK_SEQPACKET)
        command = Start(session, slot, asdict(limits), env, lease, compat, standby, cwd)
        descriptors = [stream_end.other.fileno(), supply_end.other.fileno()]
        try:
            started = _started.decode(await link.request(command, within=_START_TIMEOUT, descriptors=descriptors))
        except Unavailable:
            raise
        except VenvdError as error:
            raise Unavailable(error.message) from None
        except msgspec.MsgspecError as error:
            raise Unavailable(f"the worker host sent an invalid answer to a start: {error}") from None
        await asyncio.get_running_loop().create_unix_connection(lambda: stream, sock=stream_end.own)
        segments = Segments(supply_end.own, limits.memoryBytes, stream.tell, on_broken)
        ours.pop_all()
    return Process(session, link, started.pid, stream, segments)


class _Pair(NamedTuple):
    own: socket.socket
    other: socket.socket


def _connect(theirs: contextlib.ExitStack, ours: contextlib.ExitStack, kind: socket.SocketKind) -> _Pair:
    """Make a connection; each stack closes its ends."""
    own, other = socket.socketpair(socket.AF_UNIX, kind)
    theirs.enter_context(other)
    ours.enter_context(own)
    own.setblocking(False)
    return _Pair(own, other)
