"""Background calls: they belong to no connection, and the server keeps their results for a while.

`call.start {command, payload, timeout}` starts one. It takes the same queue and has the same limits as any other
call. Its timeout is that of the field, because the timeout of the request is for the answer to `call.start`.
`call.get {id, wait}` returns its state and, once it has ended, its result, any number of times. A result that is no
longer kept is `not_found`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from venvd_contract import commands
from venvd_contract.background import CallStarted
from venvd_contract.commands import BY_NAME
from venvd_contract.errors import Busy, Cancelled, Internal, InvalidRequest, NotFound, VenvdError
from venvd_core import wire
from venvd_core.calls import Call, Reply, Request
from venvd_core.settings import BackendSettings
from venvd_core.timer import DeadlineTimer

LONGEST_WAIT = 300.0
"""Seconds for which one `call.get` waits, whatever it asks for."""

_ID_BYTES = 16
_REMEMBERED = 4096
_NOTHING = b"null"
_BYTES_APART = frozenset({"array.get", "array.put"})
_LEAVABLE = frozenset(each.name for each in BY_NAME.values() if each.served_by == "session") - _BYTES_APART

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass
class _Left:
    """One call, and what it came to."""

    id: str
    call: Call
    created: dt.datetime
    ended: float | None = None
    outcome: Reply | VenvdError | None = None

    @property
    def size(self) -> int:
        """Bytes, about, of what the call came to."""
        if isinstance(self.outcome, Reply):
            return len(self.outcome.result)
        return 0 if self.outcome is None else len(self.outcome.message) + len(self.outcome.traceback or "")

    @property
    def state(self) -> str:
        if isinstance(self.outcome, Reply):
            return "succeeded"
        if self.outcome is not None:
            return "cancelled" if isinstance(self.outcome, Cancelled) else "failed"
        return "running" if self.call.sent_at else "queued"

    def told(self) -> dict[str, Any]:
        """As `CallInfo`, the result as the session wrote it."""
        request = self.call.request
        return {
            "id": self.id,
            "command": request.command,
            "session": request.session or "default",
            "state": self.state,
            "createdAt": self._at(self.call.received_at),
            "startedAt": self._at(self.call.sent_at) if self.call.sent_at else None,
            "endedAt": self._at(self.ended) if self.ended is not None else None,
            "result": msgspec.Raw(self.outcome.result) if isinstance(self.outcome, Reply) else None,
            "error": _error(self.outcome) if isinstance(self.outcome, VenvdError) else None,
        }

    def _at(self, moment: float) -> str:
        when = self.created + dt.timedelta(seconds=moment - self.call.received_at)
        return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _error(error: VenvdError) -> dict[str, Any]:
    fields = error.fields()
    return {"code": error.code, "message": fields.pop("error"), **fields}


class BackgroundCalls:
    """The calls of one backend that nobody has to wait for.

    Args:
        begin: begins a call.
    """

    def __init__(self, begin: Callable[[Request], Call], settings: BackendSettings) -> None:
        self._begin = begin
        self._most = settings.kept_calls
        self._seconds = settings.kept_call_seconds
        self._most_bytes = settings.kept_call_bytes
        self._bytes = 0
        self._calls: dict[str, _Left] = {}
        self._ended: OrderedDict[str, _Left] = OrderedDict()
        self._gone: OrderedDict[str, str] = OrderedDict()
        self._timer = DeadlineTimer(asyncio.get_running_loop(), self._expire)

    def close(self) -> None:
        self._timer.cancel()

    # ---- what clients ask

    async def start(self, request: Request) -> CallStarted:
        """Begin the call that `request` describes.

        Raises:
            Busy: as many calls as may be have not ended.
            VenvdError: what kept the call from being begun.
        """
        wanted = _described(request)
        self._make_room()
        call = self._begin(wanted)
        if call.done():
            call.result()
        left = _Left(secrets.token_hex(_ID_BYTES), call, dt.datetime.now(dt.UTC))
        self._calls[left.id] = left
        call.add_done_callback(lambda _: self._over(left))
        return CallStarted(left.id, left.state)

    async def get(self, request: Request) -> dict[str, Any]:
        """State and result, as `CallInfo`; waits as long as is asked, at most `LONGEST_WAIT`.

        Raises:
            NotFound: there is no such call; says what became of it where that is known.
        """
        asked = commands.checked("call.get", wire.parse_object(request.payload))
        wait = asked["wait"] or 0.0
        if not (math.isfinite(wait) and wait >= 0):
            raise InvalidRequest("wait takes seconds, 0 or more")
        left = self.find(asked["id"])
        if left.ended is None and wait:
            await asyncio.wait([left.call.future()], timeout=min(wait, LONGEST_WAIT))
            if left.call.done() and left.ended is None:
                self._over(left)
        return left.told()

    def find(self, identity: str) -> _Left:
        left = self._calls.get(identity)
        if left is None:
            fate = self._gone.get(identity)
            known = fate or "it was never started, or so long ago that its result is forgotten"
            raise NotFound(f'there is no call "{identity[:80]}": {known}')
        return left

    def call_of(self, identity: str) -> Call | None:
        """The call of that ID, ended or not; None where there is none."""
        left = self._calls.get(identity)
        return None if left is None else left.call

    def was(self, identity: str) -> bool:
        """Whether there was a call of that ID, whose result is not kept any more."""
        return identity in self._gone

    # ---- keeping and forgetting

    def _over(self, left: _Left) -> None:
        if left.ended is not None:
            return
        left.ended = time.monotonic()
        left.outcome = _outcome(left.call)
        left.call.payload = left.call.request.payload = b""  # what was asked is of no use any more
        self._bytes += left.size
        self._ended[left.id] = left
        while self._bytes > self._most_bytes and len(self._ended) > 1:
            self._forget("its result was dropped to make room for those of later calls")
        self._timer.schedule(left.ended + self._seconds)

    def _make_room(self) -> None:
        if len(self._calls) < self._most:
            return
        if not self._ended:
            raise Busy(f"{self._most} calls were started and have not ended, which is the limit of this backend")
        self._forget("its result was dropped to make room for those of later calls")

    def _expire(self, now: float) -> float | None:
        while self._ended:
            oldest = next(iter(self._ended.values()))
            due = (oldest.ended or now) + self._seconds
            if due > now:
                return due
            self._forget(f"its result was kept for {self._seconds:g} s")
        return None

    def _forget(self, why: str) -> None:
        """Let go of the call that ended first."""
        identity, left = self._ended.popitem(last=False)
        del self._calls[identity]
        self._bytes -= left.size
        self._gone[identity] = why
        while len(self._gone) > _REMEMBERED:
            self._gone.popitem(last=False)


def _outcome(call: Call) -> Reply | VenvdError:
    if call.cancelled():
        return Cancelled("the call was cancelled")
    error = call.exception()
    if error is None:
        return call.result()
    return error if isinstance(error, VenvdError) else Internal(type(error).__name__)


def _described(request: Request) -> Request:
    """The request that a `call.start` holds; its payload stays as it is.

    Raises:
        InvalidRequest: it holds none that can be left.
    """
    raw = _object.decode(wire.checked(request.payload))
    payload = bytes(raw.pop("payload", _NOTHING))
    asked = commands.checked("call.start", {name: wire.parse_object(bytes(part)) for name, part in raw.items()})
    command = asked["command"]
    if command not in _LEAVABLE:
        known = ", ".join(sorted(_LEAVABLE))
        raise InvalidRequest(f'call.start: there is no command "{command[:40]}" that can be left; known are {known}')
    if request.attachments:
        raise InvalidRequest("call.start takes no attachments")
    return Request(
        command,
        b"{}" if payload == _NOTHING else payload,
        session=asked["session"] or request.session,
        timeout=asked["timeout"],  # that of the request itself is for its own answer
        values=asked["values"] or request.values,
        lease=request.lease,
    )
