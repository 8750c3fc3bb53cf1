"""Connections that a session answers itself, without the server in between: `session.attach` of the contract.

What the two kinds of client have in common: which calls go there, what a loss means, and when not to try.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from json.encoder import encode_basestring
from typing import Any, Generic, Protocol, TypeVar

from venvd.errors import BadReply, InvalidRequest, SessionLost, decoded
from venvd.transports.base import Call
from venvd_contract.commands import ATTACH
from venvd_contract.framing import dump, dump_line

_MOST = 8
"""Direct connections of one client to one session; it runs one call at a time, so that more would help nobody."""
_TRY_AGAIN = 1.0
"""Seconds after which a session is asked again that took no further direct client."""
_NEVER = ("not_implemented", "invalid_request")
"""Codes of a backend that takes no direct clients."""


class Connection(Protocol):
    process: Any
    """Which of the session's processes answers it, as `process_of` tells; None where that is not known."""

    def close(self) -> None: ...


ConnectionType = TypeVar("ConnectionType", bound=Connection)


class Line(Generic[ConnectionType]):
    """The direct connections of one client to one session.

    Attributes:
        idle: those that carry no call.
        count: how many there are; never more than `_MOST`.
        lost: the session lost its state, and nobody was told yet.
    """

    def __init__(self) -> None:
        self.idle: deque[ConnectionType] = deque()
        self.count = 0
        self.lost = False
        self.not_before = 0.0
        self._told: Any = None
        self._lock = threading.Lock()

    def take_place(self) -> bool:
        """Whether there is room for one more connection, which then is taken."""
        with self._lock:
            if self.count >= _MOST or time.monotonic() < self.not_before:
                return False
            self.count += 1
            return True

    def give_up(self, connection: ConnectionType | None) -> None:
        """One connection is of no use any more."""
        with self._lock:
            self.count -= 1
        if connection is not None:
            connection.close()

    def drop(self) -> None:
        """Close what is idle: the process behind it is gone."""
        while self.idle:
            try:
                self.give_up(self.idle.pop())
            except IndexError:
                return

    def ended(self, connection: ConnectionType, *, told: bool) -> None:
        """The process behind a connection has ended; `told`: somebody is being told so by an error.

        Several connections see the same end: it is news once.
        """
        if told:
            self.lost = False
            self._told = connection.process
        elif connection.process is None or connection.process != self._told:
            self.lost = True
        self.drop()


class Lines(Generic[ConnectionType]):
    """The direct connections of one client, by session."""

    def __init__(self, token: str | None) -> None:
        self._token = token
        self._lines: dict[str | None, Line[ConnectionType]] = {}
        self._offered = True
        self.closed = False

    def of(self, call: Call[Any]) -> Line[ConnectionType] | None:
        """Where a call may go directly; None where the server answers it.

        The first call of a session takes the server's connection: many clients make no second one.

        Raises:
            SessionLost: the session lost its state since the last call, once.
        """
        kind = call.kind
        if not kind.direct:
            return None
        line = self._lines.get(kind.session)
        if line is None:
            if self._offered:
                self._lines.setdefault(kind.session, Line())
            return None
        if line.lost and not call.repeatable:
            line.lost = False
            raise lost(call)
        return line

    def may_have(self, line: Line[ConnectionType]) -> bool:
        """Whether one more connection may be made; who makes it gives its place back with `give_up`."""
        return self._offered and not self.closed and line.take_place()

    def greeting(self, call: Call[Any]) -> bytes:
        """The first line of a connection to the call's session."""
        message: dict[str, Any] = {"id": 0, "command": ATTACH, "payload": {"id": call.session}}
        if self._token:
            message["token"] = self._token
        return dump_line(message)

    def refused(self, line: Line[ConnectionType], reply: dict[str, Any]) -> bool:
        """Whether this is no welcome; the server's connection is used then, which says what is wrong, if anything."""
        if "error" not in reply:
            return False
        if reply.get("code") in _NEVER:
            self._offered = False
        line.not_before = time.monotonic() + _TRY_AGAIN
        return True

    def turned_away(self, line: Line[ConnectionType], reply: dict[str, Any]) -> bool:
        """The same as `turns_away`; the session is left alone for a while then."""
        if not turns_away(reply):
            return False
        line.not_before = time.monotonic() + _TRY_AGAIN
        return True

    def forget(self, session: str | None) -> None:
        """Report no loss: it is this client that ends the session's process."""
        for name in (session, None) if session == "default" else (session,):
            line = self._lines.get(name)
            if line is not None:
                line.lost = False
                line.drop()

    def close(self) -> None:
        self.closed = True
        lines, self._lines = self._lines, {}
        for line in lines.values():
            line.drop()

    def abandon(self) -> None:
        """Know nothing of any connection any more: they are the parent process's. Takes no lock that it may hold."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            while line.idle:
                line.idle.pop().close()


def process_of(welcome: dict[str, Any]) -> Any:
    """Which of a session's processes it is that a welcome speaks of."""
    info = welcome.get("result")
    return (info.get("createdAt"), info.get("restarts")) if isinstance(info, dict) else None


class RepeatError(Exception):
    """The connection ended without an answer to a call that does no harm when it is sent twice."""


def ends_state(call: Call[Any]) -> bool:
    """Whether the call replaces or ends a session's process."""
    return call.command in {"session.reset", "session.delete"}


def turns_away(reply: dict[str, Any]) -> bool:
    """Whether the session could not take the connection after all, and nothing was begun."""
    return reply.get("id") is None and "error" in reply


def lost(call: Call[Any]) -> SessionLost:
    name = "default" if call.session is None else call.session
    return SessionLost(
        f'the process of the session "{name}" ended or was replaced since the last call: what was defined and held in '
        "it is gone, and this call was not begun",
        state_lost=True,
    )


def cut(call: Call[Any]) -> SessionLost:
    """A direct connection ended with no answer: only the end of its process does that."""
    name = "default" if call.session is None else call.session
    return SessionLost(
        f'the process of the session "{name}" ended or was replaced before it answered: its state is lost, and the '
        "call may have run",
        state_lost=True,
    )


def request(call: Call[Any], *, stream: bool = False, values: str = ',"values":"tagged"') -> bytes:
    """The line of a call; the connection stands for session and token, and for the mode of values where it has one.

    Raises:
        InvalidRequest: something in it has no JSON form.
    """
    line = call.kind.opening + values
    if call.timeout is not None:
        line += f',"timeout":{float(call.timeout)!r}'
    if stream:
        line += ',"stream":true'
    payload, mark = call.payload, ',"payload":{'
    try:
        for name in payload:
            value = payload[name]
            line += f'{mark}"{name}":{encode_basestring(value) if type(value) is str else dump(value)}'
            mark = ","
        return (line + ("}}\n" if payload else "}\n")).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"{call.command}: the request has no JSON form: {error}") from None


def result(reply: dict[str, Any]) -> Any:
    """The JSON of the result; raises the error that the session answered."""
    if "error" in reply:
        raise decoded(reply)
    try:
        return reply["result"]
    except KeyError:
        raise BadReply('the reply has neither "result" nor "error"') from None
