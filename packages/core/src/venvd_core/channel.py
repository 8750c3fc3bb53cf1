"""The server's side of the channel: it listens there until the warden has sent the secret."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec

from venvd_contract.errors import Unavailable, VenvdError
from venvd_contract.internal import SECRET, SOCKET, TAKEN
from venvd_contract.internal.control import receive_data
from venvd_contract.internal.messages import Greeting, Hello, Join
from venvd_core.link import Link, OnSessionEvent, log_walls, log_zygote

_log = logging.getLogger("venvd.worker")

_MOST_PENDING = 8
"""Connections that have not sent the secret."""
_JOIN_TIMEOUT = 10.0
_SECRET_BYTES = 32


class _JoinPacket(msgspec.Struct):
    event: str
    data: Join


_join = msgspec.json.Decoder(_JoinPacket)
_greeting = msgspec.json.Decoder(Greeting)


class Channel:
    """Waits for the warden in `directory`, and accepts only one in its whole life.

    Args:
        directory: the channel's directory.
        hello: sent to the warden, with the descriptors.
        descriptors: stay open as long as the channel.
        on_event: takes the events about sessions.
        used: whether an earlier server may have used the directory.

    Attributes:
        link: the connection to the warden; None before the warden joins, and for good after the connection has ended.
        why: the reason why `link` is None.
    """

    def __init__(
        self,
        directory: Path,
        hello: Hello,
        descriptors: Sequence[int],
        on_event: OnSessionEvent,
        *,
        used: bool = False,
    ) -> None:
        self._directory = directory
        self._hello = hello
        self._descriptors = descriptors
        self._on_event = on_event
        self._used = used
        self._secret = secrets.token_hex(_SECRET_BYTES)
        self._listener: socket.socket | None = None
        self._pending: dict[socket.socket, asyncio.TimerHandle] = {}
        self._linked: asyncio.Future[Link] | None = None
        self._joining: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self.link: Link | None = None
        self.why = "the worker host has not joined yet"

    def start(self) -> None:
        """Listen for the warden, and write the secret for it.

        Raises:
            Unavailable: the channel had a warden before, or the server cannot write to its directory.
        """
        loop = asyncio.get_running_loop()
        if self._used:
            with contextlib.suppress(OSError):  # the next statement notices a file that stays
                (self._directory / TAKEN).unlink(missing_ok=True)
        if (self._directory / TAKEN).exists():
            raise Unavailable(
                f"the channel {self._directory} has been used before: start server and worker host together, with a "
                "new channel"
            )
        try:
            self._listener = _listen(self._directory / SOCKET)
            _write_secret(self._directory / SECRET, self._secret)
        except OSError as error:
            self._stop_listening()
            raise Unavailable(f"the server cannot listen in the channel {self._directory}: {error}") from None
        self._linked = loop.create_future()
        loop.add_reader(self._listener.fileno(), self._accept)

    async def close(self) -> None:
        self._stop_listening()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for link in (self.link, self._joining):
            if link is not None:
                link.drop("this server is closing")

    async def wait_for_link(self) -> Link:
        """Wait for the link and return it. Waits for ever if it has ended: a link is never replaced.

        Raises:
            Unavailable: the channel has not been started.
        """
        if self._linked is None:
            raise Unavailable(self.why)
        link = await asyncio.shield(self._linked)
        if self.link is None:
            await asyncio.get_running_loop().create_future()
        return link

    async def wait_for_loss(self) -> str:
        """Wait for the link, and then for its end; return why it ended.

        Raises:
            Unavailable: the channel has not been started.
        """
        if self._linked is None:
            raise Unavailable(self.why)
        link = await asyncio.shield(self._linked)
        return await asyncio.shield(link.gone)

    # ---- the warden joins

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if len(self._pending) >= _MOST_PENDING:
            sock.close()
            return
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        self._pending[sock] = loop.call_later(_JOIN_TIMEOUT, self._refuse, sock)
        loop.add_reader(sock.fileno(), self._receive_join, sock)

    def _receive_join(self, sock: socket.socket) -> None:
        try:
            data = receive_data(sock).data
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not self._knows_secret(data):
            _log.warning("a connection to the channel sent a wrong secret and was refused")
            self._refuse(sock)
            return
        self._forget(sock)
        try:
            (self._directory / TAKEN).touch(exist_ok=False)
        except OSError as error:
            sock.close()
            self._stop_listening()
            self.why = f"the channel {self._directory} cannot be marked as taken: {error}"
            _log.error("%s", self.why)
            return
        self._stop_listening()
        self._task = asyncio.get_running_loop().create_task(self._greet(sock), name="channel")

    def _knows_secret(self, data: bytes) -> bool:
        try:
            packet = _join.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
        return packet.event == "join" and hmac.compare_digest(packet.data.secret.encode(), self._secret.encode())

    def _refuse(self, sock: socket.socket) -> None:
        self._forget(sock)
        sock.close()

    def _forget(self, sock: socket.socket) -> None:
        timer = self._pending.pop(sock, None)
        if timer is not None:
            timer.cancel()
            asyncio.get_running_loop().remove_reader(sock.fileno())

    def _stop_listening(self) -> None:
        """Remove the socket and the secret, and close every connection that has not sent it."""
        if self._listener is None:
            return
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        self._listener = None
        for sock in list(self._pending):
            self._refuse(sock)
        for name in (SECRET, SOCKET):
            with contextlib.suppress(OSError):
                (self._directory / name).unlink()

    async def _greet(self, sock: socket.socket) -> None:
        self._joining = link = Link(sock, asyncio.get_running_loop(), self._on_event, self._on_link_gone)
        try:
            link.hello = _greeting.decode(await link.request(self._hello, descriptors=self._descriptors))
        except (VenvdError, msgspec.MsgspecError) as error:
            link.drop(f"the worker host and this server do not fit together: {error}")
            return
        if link.zygote is None:  # an event may have come before the answer
            link.zygote = link.hello.zygote
            log_zygote(link.zygote)
        log_walls(link.hello.walls)
        self._joining = None
        self.link = link
        if self._linked is not None:
            self._linked.set_result(link)

    def _on_link_gone(self, why: str) -> None:
        """Forget the link at once, so that no caller gets an ended one."""
        self.why = f"{why}; server and worker host must be started again"
        self.link = None


def _listen(path: Path) -> socket.socket:
    """Listen at `path` for this user and the directory's group; replaces the socket of an earlier server."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
        listener.listen(_MOST_PENDING)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def _write_secret(path: Path, secret: str) -> None:
    """Write the secret in one step, for this user and the directory's group."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o640)
        os.write(descriptor, secret.encode())
    finally:
        os.close(descriptor)
    draft.rename(path)
