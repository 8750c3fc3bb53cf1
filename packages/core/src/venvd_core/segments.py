"""Memory that the server makes for a session, and shares with it.

A segment is a memfd whose size is sealed: it cannot shrink under this process, which would die of it. The session asks
for one of some bytes, and the server checks them against its bounds before it makes it. The session touches each page
first, so that the kernel charges it there. The session can take pages back: the server looks before it touches any.
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
"""Packets of one session that are read before the loop turns to others."""


class Segment:
    """One segment; the descriptor is this process's own."""

    def __init__(self, name: str, size: int, descriptor: int) -> None:
        self.name = name
        self.size = size
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None
        self._ended = False

    def part(self, start: int, end: int) -> memoryview:
        """Return some of its bytes, to be read or written at once.

        Raises:
            Internal: the session has taken pages away.
            SessionLost: its process ended.
        """
        if self._ended:
            raise SessionLost("the session's process ended while an array was under way; its state is lost")
        if self.descriptor < 0 or os.fstat(self.descriptor).st_blocks * _BLOCK_BYTES < self.size:
            raise Internal("the session took back memory that it shares")
        if self._map is None:
            self._map = self._map_memory()
        return memoryview(self._map)[start:end]

    def _map_memory(self) -> mmap.mmap:
        try:
            return mmap.mmap(self.descriptor, self.size)
        except OSError as error:
            raise Internal(f"memory that the session shares cannot be mapped: {error.strerror}") from None

    def close(self, *, ended: bool = False) -> None:
        """Close the descriptor; parts that are still used keep the memory. `ended`: since the session's process did."""
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
        sock: the server's end of the process's supply of segments.
        most: bytes of all segments together; None for no limit.
        write: sends a line to the session.
        on_broken: takes the reason, without its subject, why the process must end: it broke the protocol.
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
            Internal: the process has none of that name.
        """
        segment = self._known.get(name)
        if segment is None:
            raise Internal("the session names memory that it was not given")
        return segment

    def release(self, name: str, *, reusable: bool = True) -> None:
        """Give a segment up; the session must not use it again where a client may still map it."""
        self._write(encode({"segments": {"free" if reusable else "drop": [name]}}) + b"\n")

    def close(self) -> None:
        """Close every segment, since the session's process has ended."""
        self._stop()
        for segment in self._known.values():
            segment.close(ended=True)
        self._known.clear()

    # ---- what the process asks for

    def _receive(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            try:
                data = receive_data(self._sock).data
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:  # the process has ended, or gets no further segment
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
            self._break("asked for a segment before it took the last one")
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
            LimitExceeded: the process would have too many, or too many bytes in them.
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
        """Whether an answer waits: its descriptor counts for this server's user until the process takes it."""
        unread = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(unread, sys.byteorder) > 0

    def _break(self, why: str) -> None:
        self._stop()
        self.on_broken(why)

    def _stop(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
