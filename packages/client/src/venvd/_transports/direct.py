"""Direct connections: a session answers them itself, without the server in between (command `session.attach`).

This module holds what threads and event loops share: which calls go directly, what the loss of a process means, and
when to try again.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from json.encoder import encode_basestring
from typing import Any, Generic, Protocol, TypeVar

from venvd._transports.base import Call
from venvd.errors import BadReply, InvalidRequest, Moved, SessionLost, error_from_reply
from venvd_contract.commands import ATTACH
from venvd_contract.framing import dump, dump_line

_MOST = 8
"""Direct connections of one client to one session. A session runs one call at a time, so more would not help."""
_RETRY_AFTER = 1.0
"""Seconds after which the client tries a session again that refused a direct connection."""
_NEVER = ("not_implemented", "invalid_request")
"""Codes of a backend that takes no direct connections at all."""


class PooledConnection(Protocol):
    process: Any
    """What `identify_process` returns for the session's process that answers; None if it is not known."""

    def close(self) -> None: ...


ConnectionType = TypeVar("ConnectionType", bound=PooledConnection)


class DirectPool(Generic[ConnectionType]):
    """The direct connections of one client to one session.

    Attributes:
        idle: the connections that carry no call.
        count: the number of connections, never more than `_MOST`.
        lost: whether the session lost its state and no call has reported that yet.
        not_before: the monotonic time before which the client makes no connection.
    """

    def __init__(self) -> None:
        self.idle: deque[ConnectionType] = deque()
        self.count = 0
        self.lost = False
        self.not_before = 0.0
        self._reported: Any = None
        self._lock = threading.Lock()

    def reserve(self) -> bool:
        """Reserve a place for one more connection, and return whether there was one."""
        with self._lock:
            if self.count >= _MOST or time.monotonic() < self.not_before:
                return False
            self.count += 1
            return True

    def discard(self, connection: ConnectionType | None) -> None:
        """Close a connection and free its place. None only frees the place, if the client could not make one."""
        with self._lock:
            self.count -= 1
        if connection is not None:
            connection.close()

    def close_idle(self) -> None:
        """Close the idle connections, whose process is gone."""
        while self.idle:
            try:
                self.discard(self.idle.pop())
            except IndexError:
                return

    def note_end(self, connection: ConnectionType, *, reported: bool) -> None:
        """Note that the process behind a connection has ended. Several connections may see one end. Report it once.

        Args:
            connection: the connection that saw the end.
            reported: whether an error reports the end to a caller now.
        """
        if reported:
            self.lost = False
            self._reported = connection.process
        elif connection.process is None or connection.process != self._reported:
            self.lost = True
        self.close_idle()


class DirectPools(Generic[ConnectionType]):
    """The direct connections of one client, by session."""

    def __init__(self, token: str | None) -> None:
        self._token = token
        self._pools: dict[str | None, DirectPool[ConnectionType]] = {}
        self._offered = True
        self.closed = False

    def find_pool(self, call: Call[Any]) -> DirectPool[ConnectionType] | None:
        """Return the pool for a call, or None if the server answers it.

        The first call of a session uses the server's connection: many clients make only one call.

        Raises:
            SessionLost: the session lost its state since the last call. This is raised once.
        """
        kind = call.kind
        if not kind.direct:
            return None
        pool = self._pools.get(kind.session)
        if pool is None:
            if self._offered:
                self._pools.setdefault(kind.session, DirectPool())
            return None
        if pool.lost and not call.repeatable:
            pool.lost = False
            raise make_lost_error(call)
        return pool

    def may_connect(self, pool: DirectPool[ConnectionType]) -> bool:
        """Reserve a place for a connection, and return whether there was one. `discard` frees the place."""
        return self._offered and not self.closed and pool.reserve()

    def make_greeting(self, call: Call[Any]) -> bytes:
        """Return the first line of a connection to the call's session."""
        message: dict[str, Any] = {"id": 0, "command": ATTACH, "payload": {"id": call.session}}
        if self._token:
            message["token"] = self._token
        return dump_line(message)

    def is_refusal(self, pool: DirectPool[ConnectionType], reply: dict[str, Any]) -> bool:
        """Return whether the backend refused a connection. The server's connection then tells the caller the reason."""
        if "error" not in reply:
            return False
        if reply.get("code") in _NEVER:
            self._offered = False
        moved = reply.get("code") == Moved.code  # the session's replica offers direct connections
        pool.not_before = math.inf if moved else time.monotonic() + _RETRY_AFTER
        return True

    def is_late_refusal(self, pool: DirectPool[ConnectionType], reply: dict[str, Any]) -> bool:
        """Return whether the session refused the connection after all; see `is_unstarted`. Delays the next attempt."""
        if not is_unstarted(reply):
            return False
        pool.not_before = time.monotonic() + _RETRY_AFTER
        return True

    def expect_end(self, session: str | None) -> None:
        """Report no loss for a session whose process this client ends itself."""
        for name in (session, None) if session == "default" else (session,):
            pool = self._pools.get(name)
            if pool is not None:
                pool.lost = False
                pool.close_idle()

    def close(self) -> None:
        self.closed = True
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.close_idle()

    def abandon(self) -> None:
        """Forget the parent process's connections after a fork. Takes no lock, because the parent may hold it."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            while pool.idle:
                pool.idle.pop().close()


class RepeatError(Exception):
    """The connection ended before it answered a call, and the client may send this call twice."""


def identify_process(welcome: dict[str, Any]) -> Any:
    """Return what identifies the session's process, from the answer to a greeting."""
    info = welcome.get("result")
    return (info.get("createdAt"), info.get("restarts")) if isinstance(info, dict) else None


def ends_state(call: Call[Any]) -> bool:
    """Return whether the call replaces or ends a session's process."""
    return call.command in {"session.reset", "session.delete"}


def is_unstarted(reply: dict[str, Any]) -> bool:
    """Return whether the session could not take the connection, so that the call did not start."""
    return reply.get("id") is None and "error" in reply


def make_lost_error(call: Call[Any]) -> SessionLost:
    """Return the error for a call that did not start because the state it expects is lost."""
    name = "default" if call.session is None else call.session
    return SessionLost(
        f'the process of the session "{name}" ended or was replaced since the last call: its variables and handles are '
        "lost, and this call did not start",
        state_lost=True,
    )


def make_cut_error(call: Call[Any]) -> SessionLost:
    """Return the error for a direct connection that ended without an answer, because its process ended."""
    name = "default" if call.session is None else call.session
    return SessionLost(
        f'the process of the session "{name}" ended or was replaced before it answered: its state is lost, and the '
        "call may have run",
        state_lost=True,
    )


def encode_call(call: Call[Any], *, stream: bool = False, values: str = ',"values":"tagged"') -> bytes:
    """Return the line of a call. The connection implies session and token, and the mode of values if it has one.

    Raises:
        InvalidRequest: something in the call has no JSON form.
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


def check_reply(reply: dict[str, Any]) -> None:
    """Raise `BadReply` for the code that only a server may use, because user code must not lead a client elsewhere."""
    if reply.get("code") == Moved.code:
        raise BadReply("the session answered that it moved, which only its server knows")


def decode_reply(reply: dict[str, Any]) -> Any:
    """Return the result in a reply, or raise the error that the session answered."""
    check_reply(reply)
    if "error" in reply:
        raise error_from_reply(reply)
    try:
        return reply["result"]
    except KeyError:
        raise BadReply('the reply has neither "result" nor "error"') from None
