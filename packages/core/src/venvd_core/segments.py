"""Memory that the server makes for a session and shares with it.

A segment is a memfd with a sealed size: if it could shrink, SIGBUS would kill this process. The session asks for a
segment of a size, and the server checks the size before it makes the segment. The session touches each page first, so
that the kernel charges the page to the worker host. The session can remove pages, so the server checks that all are
allocated before it touches any.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import secrets
import socket
import sys
import termios
from collections.abc import Callable

import msgspec

from venvd_contract.arrays import MAX_BYTES
from venvd_contract.errors import Internal, LimitExceeded, SessionLost
from venvd_contract.internal.control import SEND, receive_data, rights
from venvd_contract.internal.segments import LONGEST_NAME, MOST_SEGMENTS, create_sealed
from venvd_core.wire import encode

_BLOCK_BYTES = 512
_MOST_AT_ONCE = 16
"""Packets of one session that the server reads in one turn of the event loop."""


class Segment:
    """One segment, with a descriptor of its own."""

    def __init__(self, name: str, size: int, descriptor: int) -> None:
        self.name = name
        self.size = size
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None
        self._ended = False

    def part(self, start: int, end: int) -> memoryview:
        """Return some of its bytes; the caller reads or writes them at once.

        Raises:
            Internal: the session has removed pages.
            SessionLost: the session's process has ended.
        """
        if self._ended:
            raise SessionLost("the session's process ended during the transfer of an array; its state is lost")
        if self.descriptor < 0 or os.fstat(self.descriptor).st_blocks * _BLOCK_BYTES < self.size:
            raise Internal("the session removed pages of shared memory")
        if self._map is None:
            self._map = self._map_memory()
        return memoryview(self._map)[start:end]

    def _map_memory(self) -> mmap.mmap:
        try:
            return mmap.mmap(self.descriptor, self.size)
        except OSError as error:
            raise Internal(f"the server cannot map shared memory of the session: {error.strerror}") from None

    def close(self, *, ended: bool = False) -> None:
        """Close the descriptor; parts in use keep the memory. `ended`: the session's process has ended."""
        self._ended = ended
        self._map = None
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _Packet(msgspec.Struct):
    want: int | None = None
    gone: list[str] | None = None


_packet = msgspec.json.Decoder(_Packet)


class Segments:
    """The segments of one session's process.

    Args:
        sock: the server's end of the connection on which the process gets segments.
        most: limit on the bytes of all segments together; None is no limit.
        write: sends a line to the session.
        on_broken: called if the process breaks the protocol, with how it did so, as a sentence without its subject.
    """

    def __init__(
        self, sock: socket.socket, most: int | None, write: Callable[[bytes], None], on_broken: Callable[[str], None]
    ) -> None:
        self._sock = sock
        self._most = most
        self._write = write
        self.on_broken = on_broken
        self._known: dict[str, Segment] = {}
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._receive)

    def find(self, name: str) -> Segment:
        """Return the segment that a reply names.

        Raises:
            Internal: the process has no segment with this name.
        """
        segment = self._known.get(name)
        if segment is None:
            raise Internal("the session named a segment that it does not have")
        return segment

    def release(self, name: str, *, reusable: bool = True) -> None:
        """Tell the session that a segment is free. It must not reuse the segment if a client may still map it."""
        self._write(encode({"segments": {"free" if reusable else "drop": [name]}}) + b"\n")

    def close(self) -> None:
        """Close every segment, since the session's process has ended."""
        self._stop()
        for segment in self._known.values():
            segment.close(ended=True)
        self._known.clear()

    # ---- requests of the process

    def _receive(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            try:
                data = receive_data(self._sock).data
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:  # the process has ended, or has closed its end
                self._stop()
                return
            try:
                self._take(_packet.decode(data))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self._break(f"sent an invalid packet about segments: {error}")
                return
            except OSError as error:
                self._break(f"could not be given a segment: {error}")
                return

    def _take(self, packet: _Packet) -> None:
        for name in packet.gone or ():
            if (gone := self._known.pop(name[:LONGEST_NAME], None)) is not None:
                gone.close()
        if packet.want is None:
            return
        if self._has_unread():
            self._break("asked for a segment before it received the last one")
            return
        try:
            segment = self._make(packet.want)
        except LimitExceeded as error:
            self._sock.sendmsg([encode(error.fields())], (), SEND)
            return
        answer = encode({"name": segment.name, "size": segment.size})
        self._sock.sendmsg([answer], rights([segment.descriptor]), SEND)

    def _make(self, size: int) -> Segment:
        """Make a segment of `size` bytes.

        Raises:
            LimitExceeded: the process would have too many segments, or too many bytes in segments.
        """
        if len(self._known) >= MOST_SEGMENTS:
            raise LimitExceeded(f"the session has {MOST_SEGMENTS} arrays in shared memory, which is its limit")
        used = sum(segment.size for segment in self._known.values())
        most = MAX_BYTES if self._most is None else self._most
        if not 0 < size <= most - used:
            raise LimitExceeded(f"a segment takes 1 to {max(0, most - used)} bytes, not {size}: memoryBytes is {most}")
        try:
            descriptor = create_sealed("venvd-segment", size)
        except OSError as error:
            raise LimitExceeded(f"the server cannot make a segment of {size} bytes: {error.strerror}") from None
        name = f"seg-{secrets.token_hex(12)}"
        segment = self._known[name] = Segment(name, size, descriptor)
        return segment

    def _has_unread(self) -> bool:
        """Return whether the last answer is unread, so that its descriptor still counts for this server's user."""
        unread = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(unread, sys.byteorder) > 0

    def _break(self, why: str) -> None:
        self._stop()
        self.on_broken(why)

    def _stop(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
