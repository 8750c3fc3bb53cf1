"""Float arrays: results of `tofloatarray` and `tofloatarray2d`, which are JSON and may be as large as any array.

A short one is part of the session's reply. A long one is in a segment, and a transport sends it from there part by
part. For a transport that cannot do that, a `WholeCall` returns all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from venvd_contract.errors import Internal, LimitExceeded, VenvdError
from venvd_core.arrays import Outgoing, open_segment, release_unclaimed
from venvd_core.calls import Call, Reply

COMMANDS = frozenset({"tofloatarray", "tofloatarray2d"})
LARGEST_WHOLE = 256 << 20
"""Bytes in one piece. The transport copies a message several times, and a server has 2 GiB of memory."""


def too_long(nbytes: int) -> LimitExceeded:
    """Return the error of an array that takes more than `LARGEST_WHOLE` in one piece."""
    return LimitExceeded(
        f"the array takes {nbytes} bytes or more, and one message holds {LARGEST_WHOLE}: "
        "fetch it with array.get (gRPC: GetArray), which sends it in parts"
    )


def is_apart(reply: Reply) -> bool:
    """Whether the reply to one of `COMMANDS` names a segment with the text instead of containing the text."""
    return not reply.result.startswith(b"[")


def open_text(call: Call) -> Outgoing:
    """Open the text of a call whose reply `is_apart`; the caller closes it.

    Raises:
        Internal: the session broke the protocol.
        SessionLost: its process has ended.
    """
    return open_segment(call, call.result())


async def wait_for_text(call: Call) -> Outgoing | None:
    """Wait for a call, and return its text if the reply `is_apart`; the caller closes it.

    Raises:
        VenvdError: the call failed, or its text cannot be read.
    """
    try:
        reply = await call
    except asyncio.CancelledError:
        discard(call)
        raise
    return open_text(call) if is_apart(reply) else None


def read_text(text: Outgoing) -> Iterator[bytes]:
    """Yield copies of the parts of a text: the session can change its own memory at any time.

    Raises:
        Internal: the text is not one line of ASCII, and would break the framing of the pipe.
        SessionLost: the session's process has ended.
    """
    for part in text:
        copy = bytes(part)
        if not copy.isascii() or b"\n" in copy:
            raise Internal("the session sent a float array that is not one line of JSON")
        yield copy


def discard(call: Call) -> None:
    """Release the text of a call whose client has left."""
    if call.reply is not None and is_apart(call.reply):
        release_unclaimed(call, call.reply.result)


class WholeCall(Call):
    """A call of one of `COMMANDS` whose reply always contains the whole text."""

    __slots__ = ("_reading",)

    def end(self, reply: Reply | None, error: VenvdError | None = None) -> None:
        if reply is None or not is_apart(reply):
            super().end(reply, error)
        else:
            self._reading = asyncio.ensure_future(self._read(reply))  # the loop itself keeps only a weak reference

    async def _read(self, described: Reply) -> None:
        reply: Reply | None = None
        error: VenvdError | None = None
        try:
            text = open_segment(self, described)
            try:
                if text.header.nbytes > LARGEST_WHOLE:
                    raise too_long(text.header.nbytes)
                reply = Reply(b"".join(read_text(text)))
            finally:
                text.close()
        except VenvdError as raised:
            error = raised
        if not self.ended:
            super().end(reply, error)
