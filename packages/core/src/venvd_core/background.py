"""Background calls: they belong to no connection, and the server keeps their results for a while.

`call.start {command, payload, timeout}` starts one. It has the same queue and the same limits as any other call. Its
timeout is the field of that name; the timeout of the request is for the answer to `call.start`. The call ends with the
key that started it.
`call.get {id, wait}` returns its state and, once it has ended, its result, any number of times. If the server no longer
keeps the result, the answer is `not_found`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from venvd_contract import commands
from venvd_contract.background import CallStarted
from venvd_contract.commands import SESSION_COMMANDS
from venvd_contract.errors import Busy, Cancelled, Internal, InvalidRequest, NotFound, VenvdError
from venvd_core import wire
from venvd_core.calls import Call, Reply, Request
from venvd_core.replicas import Replicas
from venvd_core.settings import BackendSettings
from venvd_core.timer import DeadlineTimer

LONGEST_WAIT = 300.0
"""Seconds for which one `call.get` waits at most."""

_REMEMBERED = 4096
_NULL = b"null"
_DROPPED = "its result was dropped to make room for those of later calls"

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass
class _BackgroundCall:
    """One call, and its outcome."""

    id: str
    call: Call
    created: dt.datetime
    ended: float | None = None
    outcome: Reply | VenvdError | None = None

    @property
    def size(self) -> int:
        """Bytes of the outcome, roughly."""
        if isinstance(self.outcome, Reply):
            return len(self.outcome.result)
        if self.outcome is None:
            return 0
        return len(wire.encode(self.outcome.fields()))

    @property
    def state(self) -> str:
        if isinstance(self.outcome, Reply):
            return "succeeded"
        if self.outcome is not None:
            return "cancelled" if isinstance(self.outcome, Cancelled) else "failed"
        return "running" if self.call.sent_at else "queued"

    def describe(self) -> dict[str, Any]:
        """Return the fields of `CallInfo`, with the result as the session wrote it."""
        request = self.call.request
        return {
            "id": self.id,
            "command": request.command,
            "session": request.session or "default",
            "state": self.state,
            "createdAt": self._format_time(self.call.received_at),
            "startedAt": self._format_time(self.call.sent_at) if self.call.sent_at else None,
            "endedAt": self._format_time(self.ended) if self.ended is not None else None,
            "result": msgspec.Raw(self.outcome.result) if isinstance(self.outcome, Reply) else None,
            "error": _describe_error(self.outcome) if isinstance(self.outcome, VenvdError) else None,
        }

    def _format_time(self, moment: float) -> str:
        when = self.created + dt.timedelta(seconds=moment - self.call.received_at)
        return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _describe_error(error: VenvdError) -> dict[str, Any]:
    fields = error.fields()
    return {"code": error.code, "message": fields.pop("error"), **fields}


class BackgroundCalls:
    """The background calls of one backend.

    Args:
        begin: begins a call.
        settings: the limits on number, bytes and age of the results.
        replicas: makes the IDs of calls.
    """

    def __init__(self, begin: Callable[[Request], Call], settings: BackendSettings, replicas: Replicas) -> None:
        self._begin = begin
        self._replicas = replicas
        self._most = settings.kept_calls
        self._seconds = settings.kept_call_seconds
        self._most_bytes = settings.kept_call_bytes
        self._bytes = 0
        self._calls: dict[str, _BackgroundCall] = {}
        self._ended: OrderedDict[str, _BackgroundCall] = OrderedDict()
        self._fates: OrderedDict[str, str] = OrderedDict()
        self._timer = DeadlineTimer(asyncio.get_running_loop(), self._expire)

    def close(self) -> None:
        self._timer.cancel()

    # ---- commands

    async def start(self, request: Request) -> CallStarted:
        """Begin the call that `request` describes.

        Raises:
            Busy: too many background calls have not ended.
            Unauthenticated: the client's key has ended.
            VenvdError: the call could not begin; its error.
        """
        parsed = _parse_start(request)
        key = None if request.caller is None else request.caller.key
        if key is not None and key.ended:
            raise key.error()
        self._make_room()
        call = self._begin(parsed)
        if call.done():
            call.result()
        background = _BackgroundCall(self._replicas.make_call_id(), call, dt.datetime.now(dt.UTC))
        self._calls[background.id] = background
        call.add_done_callback(lambda _: self._on_done(background))
        return CallStarted(background.id, background.state)

    async def get(self, request: Request) -> dict[str, Any]:
        """Return state and result as `CallInfo`; waits as long as the request says, at most `LONGEST_WAIT`.

        Raises:
            NotFound: there is no such call; the message says what happened to it, if the server knows.
        """
        fields = commands.check_payload("call.get", wire.parse_object(request.payload))
        wait = fields["wait"] or 0.0
        if not (math.isfinite(wait) and wait >= 0):
            raise InvalidRequest("wait takes seconds, 0 or more")
        background = self._find(fields["id"])
        if background.ended is None and wait:
            await asyncio.wait([background.call.future()], timeout=min(wait, LONGEST_WAIT))
            if background.call.done():
                self._on_done(background)
        return background.describe()

    def _find(self, identity: str) -> _BackgroundCall:
        background = self._calls.get(identity)
        if background is None:
            self._replicas.check_call(identity)
            if identity not in self._fates:
                self._replicas.check_left_call(identity)
            fate = self._fates.get(identity)
            known = fate or "it never started, or the server no longer remembers it"
            raise NotFound(f'there is no call "{identity[:80]}": {known}')
        return background

    def find_call(self, identity: str) -> Call | None:
        """Return the running or ended call with this ID, or None."""
        background = self._calls.get(identity)
        return None if background is None else background.call

    def has_expired(self, identity: str) -> bool:
        """Whether a call had this ID, and its result is no longer kept."""
        return identity in self._fates

    # ---- keeping results

    def _on_done(self, background: _BackgroundCall) -> None:
        if background.ended is not None:
            return
        background.ended = time.monotonic()
        background.outcome = _find_outcome(background.call)
        background.call.payload = background.call.request.payload = b""  # frees its memory
        self._bytes += background.size
        self._ended[background.id] = background
        while self._bytes > self._most_bytes and len(self._ended) > 1:
            self._drop_oldest(_DROPPED)
        self._timer.schedule(background.ended + self._seconds)

    def _make_room(self) -> None:
        if len(self._calls) < self._most:
            return
        if not self._ended:
            raise Busy(f"{self._most} background calls run or wait, which is the limit of this backend")
        self._drop_oldest(_DROPPED)

    def _expire(self, now: float) -> float | None:
        while self._ended:
            oldest = next(iter(self._ended.values()))
            due = (oldest.ended or now) + self._seconds
            if due > now:
                return due
            self._drop_oldest(f"its result was kept for {self._seconds:g} s")
        return None

    def _drop_oldest(self, why: str) -> None:
        """Drop the result of the call that ended first."""
        identity, background = self._ended.popitem(last=False)
        del self._calls[identity]
        self._bytes -= background.size
        self._fates[identity] = why
        while len(self._fates) > _REMEMBERED:
            self._fates.popitem(last=False)


def _find_outcome(call: Call) -> Reply | VenvdError:
    if call.cancelled():
        return Cancelled("the call was cancelled")
    error = call.exception()
    if error is None:
        return call.result()
    key = None if call.request.caller is None else call.request.caller.key
    if isinstance(error, Cancelled) and key is not None and key.ended:
        return Cancelled(f"{error.message}: {key.error().message}", state_lost=error.state_lost)
    return error if isinstance(error, VenvdError) else Internal(type(error).__name__)


def _parse_start(request: Request) -> Request:
    """Return the request that a `call.start` holds; its payload is not parsed.

    Raises:
        InvalidRequest: its command cannot run in the background.
    """
    raw = _object.decode(wire.check_payload(request.payload))
    payload = bytes(raw.pop("payload", _NULL))
    fields = commands.check_payload("call.start", {name: wire.parse_object(bytes(part)) for name, part in raw.items()})
    command = fields["command"]
    if command not in SESSION_COMMANDS:
        known = ", ".join(sorted(SESSION_COMMANDS))
        raise InvalidRequest(
            f'call.start: there is no command "{command[:40]}" that can run in the background; known are {known}'
        )
    if request.attachments:
        raise InvalidRequest("call.start takes no attachments")
    return Request(
        command,
        b"{}" if payload == _NULL else payload,
        session=fields["session"] or request.session,
        timeout=fields["timeout"],  # that of the request is for the answer to `call.start`
        values=fields["values"] or request.values,
        lease=request.lease,
        caller=request.caller,
    )
