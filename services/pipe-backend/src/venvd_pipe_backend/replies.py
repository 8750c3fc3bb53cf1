"""The lines to clients, and the order of replies to requests without an ID."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from venvd_contract.errors import Cancelled, Internal, VenvdError
from venvd_core.backend import Call, Reply

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


def head(identity: bytes) -> bytes:
    """Write the beginning of each line that belongs to a request."""
    return b'{"id":%b,' % identity if identity else b"{"


def result(begin: bytes, reply: Reply) -> bytes:
    parts = reply.attachments
    if not parts:
        return b'%b"result":%b}\n' % (begin, reply.result)
    sizes = b",".join(b"%d" % len(part) for part in parts)
    return b"".join((b'%b"result":%b,"attachments":[%b]}\n' % (begin, reply.result, sizes), *parts))


def answer(call: Call) -> bytes:
    """Write the line that answers a call that has ended, and its attachments."""
    tag, reply = call.request.tag, call.reply
    if reply is not None and tag and not reply.attachments:
        return b'{"id":%b,"result":%b}\n' % (tag, reply.result)  # the same bytes as those of `result`
    return outcome(head(tag), call)


def outcome(begin: bytes, call: Call | asyncio.Task[Reply | None]) -> bytes:
    """Write the line that answers an ended call or array; empty if it has been written before."""
    if call.cancelled():
        return failure(begin, Cancelled("the call was cancelled"))
    error = call.exception()
    if error is None:
        reply = call.result()
        return b"" if reply is None else result(begin, reply)
    if not isinstance(error, VenvdError):
        log.error("a call failed with an unexpected error", exc_info=error)
        error = Internal("the server failed; its log has the details")
    return failure(begin, error)


def failure(begin: bytes, error: VenvdError) -> bytes:
    return b"%b%b\n" % (begin, _json(error.fields())[1:])


def event(begin: bytes, kind: str, data: bytes) -> bytes:
    return b'%b"event":"%b","data":%b}\n' % (begin, kind.encode(), data)


def _json(data: Any) -> bytes:
    try:
        return _encode(data)
    except UnicodeEncodeError:
        return json.dumps(data).encode()  # writes lone surrogates, which have no UTF-8, as escapes


class Turn:
    """The place of one request without an ID in the order of replies."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.waiting: list[bytes] = []
        self.ended = False
        self.came: asyncio.Future[None] | None = None

    def write(self, data: bytes) -> None:
        """Write an event at once, or after the replies to earlier requests."""
        if self._order.first is self:
            self._order.write(data)
        else:
            self.waiting.append(data)

    async def first(self) -> None:
        """Wait until the earlier requests are answered."""
        if self._order.first is not self:
            self.came = asyncio.get_running_loop().create_future()
            await self.came

    def end(self, data: bytes) -> None:
        """Write the reply, and the replies that waited for it."""
        self.write(data)
        self.ended = True
        self._order.proceed()


class Order:
    """Keeps the replies to requests without an ID in the order of the requests."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.write = write
        self._turns: deque[Turn] = deque()

    @property
    def first(self) -> Turn | None:
        return self._turns[0] if self._turns else None

    def turn(self) -> Turn:
        turn = Turn(self)
        self._turns.append(turn)
        return turn

    def proceed(self) -> None:
        while self._turns and self._turns[0].ended:
            self._turns.popleft()
            if self._turns and self._turns[0].waiting:
                following = self._turns[0]
                self.write(b"".join(following.waiting))
                following.waiting.clear()
            if self._turns and (came := self._turns[0].came) is not None and not came.done():
                came.set_result(None)
