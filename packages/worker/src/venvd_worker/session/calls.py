"""Answers one request: runs the command, and makes a reply of its result or error."""

from __future__ import annotations

import _thread
from functools import partial
from os import getpid
from time import monotonic
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple, Type

from venvd_contract.commands import ATTACH, BY_NAME, COMMANDS, PIPES, STREAMED, check_payload
from venvd_contract.errors import (
    Cancelled,
    Internal,
    InvalidRequest,
    LimitExceeded,
    UserError,
    VenvdError,
)
from venvd_contract.framing import REQUEST_FIELDS
from venvd_contract.internal.slots import COMMAND_BYTES
from venvd_contract.suggestions import check_names
from venvd_worker.session import compat, exceptions, forks, replies, tracebacks
from venvd_worker.session.arrays import ArrayReply
from venvd_worker.session.commands import Call, Commands
from venvd_worker.session.compat import RETURN_TYPE
from venvd_worker.session.handles import Handles
from venvd_worker.session.interrupts import Interrupts
from venvd_worker.session.limits import Guard
from venvd_worker.session.replies import Reply
from venvd_worker.session.slot import Slot
from venvd_worker.session.streams import Request, Stream

_USUAL = 3
"""Number of fields in a request that has only `id`, `command` and `payload`."""
_NO_ROOM = LimitExceeded("the session ran out of memory while it answered")
_new: Callable[[Type[Call], Tuple[Any, ...]], Call] = tuple.__new__


class _Step(NamedTuple):
    """How the session answers a command.

    Attributes:
        name: the name of the command in the slot.
        armed: whether a signal may interrupt the action anywhere. Else the action itself says where.
    """

    action: Callable[[Call], Any]
    name: bytes
    armed: bool


class Calls:
    """Runs the commands of requests and makes their replies."""

    def __init__(self, commands: Commands, slot: Slot, interrupts: Interrupts, guard: Guard, handles: Handles) -> None:
        self._arrays = commands.arrays
        self._modes = commands.modes
        self._take_ended_output = commands.take_ended_output
        self._compat = True
        self._slot = slot
        self._interrupts = interrupts
        self._guard = guard
        self._handles = handles
        self.leases = handles.leases
        self._line = partial(replies.result_line, *replies.bounds(None))
        self._event_lock = _thread.allocate_lock()
        self._steps = {
            command: _Step(action, command.encode()[:COMMAND_BYTES], armed=True)
            for command, action in commands.table.items()
        }
        self._steps["exec"] = _Step(commands.execute, b"exec", armed=False)

    def configure(self, result_limit: Optional[int], *, compat: bool) -> None:
        """Set the most bytes of a result as JSON, and whether to serve clients of an older .NET host."""
        self._line = partial(replies.result_line, *replies.bounds(result_limit))
        self._compat = compat

    def answer(self, request: Request, stream: Stream) -> Reply:
        """Return the reply to a request that came over `stream`. Send the events before it over the same stream."""
        begin = replies.NO_ID
        try:
            begin, identifier = replies.head(request[0].get("id"))
            step, call, timeout = self._prepare(request, begin, stream)
        except VenvdError as error:
            return replies.error_line(begin, error)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not look like the end of the session
            return replies.error_line(begin, _defect(error))
        slot, interrupts, handles, direct = self._slot, self._interrupts, self._handles, stream.connection
        if not direct and identifier == slot.withdrawn():
            return replies.error_line(begin, Cancelled("the call was withdrawn before it began"))
        interrupts.install()
        began = monotonic() if handles.leases else 0.0
        reply: Reply
        failed = False
        slot.sequence += 1  # this comes before signals count, because a late signal was meant for the last call
        try:
            try:
                interrupts.armed = step.armed
                slot.begin(identifier, step.name, timeout, direct)
                result = step.action(call)
            finally:
                interrupts.armed = False
            if getpid() != forks.session:
                forks.leave(None)
            reply = _pack(begin, result) if type(result) is ArrayReply else self._line(begin, result)
        except BaseException as raised:  # noqa: BLE001 - the user's code may raise anything
            if not forks.is_session():
                forks.leave(raised)
            failed = True
            reply = self._failure(begin, raised)
        if began:
            handles.extend_leases(monotonic() - began)
        slot.end(len(handles.held), direct > 0, failed)
        return reply

    def expire(self) -> Optional[float]:
        """Free handles whose lease has ended. Return the seconds until the next lease ends, or None without leases."""
        handles = self._handles
        if not handles.leases:
            return None
        before = len(handles.held)
        left = handles.expire()
        if len(handles.held) != before:
            self._slot.end(len(handles.held), direct=False, failed=False)
        return left

    def handle_server_line(self, message: Dict[str, Any]) -> bool:
        """Handle a line of the server that has no reply. Return False if the line is a request."""
        if "command" in message:
            return False
        if "heartbeat" in message:
            self._slot.write_heartbeat(message["heartbeat"])
        elif "segments" in message:
            self._arrays.handle_server_line(message["segments"])
        else:
            return False
        return True

    def _prepare(self, request: Request, begin: bytes, stream: Stream) -> Tuple[_Step, Call, float]:
        message, attachments = request
        command: Any = message.get("command")
        step = self._steps.get(command) if type(command) is str else None
        if step is None:
            raise _unknown_command(message, stream.connection)
        mode, timeout, emit = stream.values, stream.timeout, None
        self._handles.lease = self._handles.usual_lease
        if len(message) > _USUAL or "payload" not in message or "id" not in message:
            check_names(message, REQUEST_FIELDS)
            timeout = stream.admit(message)
            mode = parse_value_mode(message, mode)
            if message.get("lease") is not None:
                self._handles.lease = _parse_lease(message["lease"])
            emit = partial(self._send_event, stream, begin) if message.get("stream") is True else None
        payload = message.get("payload")
        wants_data = self._compat and type(payload) is dict and RETURN_TYPE in payload and compat.wants_data(payload)
        fields = check_payload(command, payload)
        return step, _new(Call, (fields, self._modes[mode], wants_data, emit, attachments, stream.shares)), timeout

    def _send_event(self, stream: Stream, begin: bytes, event: str, data: Any) -> None:
        """Send an event. The thread that reads the output calls this too."""
        line = replies.event_line(begin, event, data)
        with self._event_lock:
            stream.send(line)

    def _failure(self, begin: bytes, raised: BaseException) -> bytes:
        try:
            error = self._error(raised)
            error.output = self._take_ended_output()
            return replies.error_line(begin, error)
        except MemoryError:
            # Free what the failed call still refers to, and use the memory that the guard has reserved for this.
            raised.__traceback__ = None
            self._guard.make_room()
            reply = replies.error_line(begin, self._guard.explain(MemoryError()) or _NO_ROOM)
            self._guard.take_room_back()
            return reply

    def _error(self, raised: BaseException) -> VenvdError:
        if isinstance(raised, VenvdError):
            return raised
        if self._interrupts.has_interrupted():
            return self._interrupts.error(tracebacks.format_traceback(raised))
        limit = self._guard.explain(raised)
        if limit is not None:
            limit.error_type = tracebacks.type_name(raised)
            limit.traceback = tracebacks.format_traceback(raised)
            limit.exception = exceptions.describe(raised)
            return limit
        return UserError(
            tracebacks.message(raised),
            error_type=tracebacks.type_name(raised),
            traceback=tracebacks.format_traceback(raised),
            exception=exceptions.describe(raised),
        )


def _parse_lease(given: Any) -> Optional[float]:
    if type(given) not in (int, float) or not 0 <= given < float("inf"):
        raise InvalidRequest('"lease" takes a number of seconds, 0 for none')
    return float(given) or None


def _pack(begin: bytes, reply: ArrayReply) -> Reply:
    if reply.text is not None:
        return replies.text_reply(begin, reply.text)
    return replies.package(begin, reply.result, reply.attachments)


def parse_value_mode(message: Dict[str, Any], usual: str) -> str:
    """Return the mode of the values in the reply.

    Raises:
        InvalidRequest: there is no such mode.
    """
    mode = message.get("values") or usual
    if mode not in ("plain", "tagged"):
        raise InvalidRequest('the value mode "{}" is none of plain, tagged'.format(str(mode)[:40]))
    return str(mode)


def _unknown_command(message: Dict[str, Any], connection: int) -> VenvdError:
    command = message.get("command")
    if type(command) is not str:
        check_names(message, REQUEST_FIELDS)
        return InvalidRequest('the field "command" is missing; it takes a string')
    if command == ATTACH:
        return InvalidRequest("this connection is attached already; open another one to attach that")
    if command == PIPES:
        return InvalidRequest('"{}" must be the first line of an attached connection'.format(PIPES))
    if command in BY_NAME or command.startswith("venv."):
        where = ": use another connection, this one is attached to a session" if connection else ", not by a session"
        return InvalidRequest('"{}" is answered by the server{}'.format(command, where))
    known = ", ".join(each.name for each in (*COMMANDS, *STREAMED) if each.served_by == "session")
    return InvalidRequest('there is no command "{}"; a session knows {}'.format(command[:80], known))


def _defect(error: BaseException) -> VenvdError:
    """Return the error that stands for a defect in our code."""
    return Internal("the session failed: {}".format(tracebacks.type_name(error)))
