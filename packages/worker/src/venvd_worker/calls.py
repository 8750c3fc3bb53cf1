"""Answering one request: what the user's code may do to it, and what its errors are called."""

from __future__ import annotations

from typing import Any, Callable, Optional, Tuple

from venvd_contract.errors import Internal, InvalidRequest, LimitExceeded, Unimplemented, UserError, VenvdError
from venvd_contract.operations import ARRAY_RELEASE, BY_COMMAND, OPERATIONS, PLANNED, STREAMED, checked
from venvd_worker import forks, replies, tracebacks
from venvd_worker.arrays import Parcel
from venvd_worker.handles import Handles
from venvd_worker.interrupts import Interrupts
from venvd_worker.limits import Guard
from venvd_worker.operations import Call, Operations
from venvd_worker.replies import Reply
from venvd_worker.slots import Slot, request_number
from venvd_worker.streams import Request

Emitter = Callable[[bytes], None]

_COMMAND_BYTES = 24
_COMMANDS = {each.command: each.command.encode()[:_COMMAND_BYTES] for each in (*OPERATIONS, *STREAMED, ARRAY_RELEASE)}
_NO_ROOM = LimitExceeded("the session ran out of memory while it answered")


class Calls:
    """Runs the operations that requests name, and turns whatever comes of them into a reply.

    Args:
        result_limit: bytes of a result as JSON; None for none.
    """

    def __init__(
        self, operations: Operations, slot: Slot, interrupts: Interrupts, guard: Guard, handles: Handles,
        result_limit: Optional[int],
    ) -> None:  # fmt: skip
        self._operations = operations
        self._slot = slot
        self._interrupts = interrupts
        self._guard = guard
        self._handles = handles
        self._result_limit = result_limit

    def answer(self, request: Request, send: Emitter) -> Reply:
        """The reply to a request, empty where there is none; `send` takes the events before it."""
        message = request.message
        if "segments" in message and "command" not in message:
            self._operations.arrays.told(message["segments"])
            return b""
        identifier = replies.known_identifier(message)
        try:
            command, call, timeout = self._prepare(request, identifier, send)
        except VenvdError as error:
            return replies.error_line(identifier, error)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not look like the end of the session
            return replies.error_line(identifier, _defect(error))
        self._interrupts.install()
        self._slot.begin(request_number(identifier), _COMMANDS[command], timeout)
        reply, failed = self._run(command, call, identifier)
        self._slot.end(failed, len(self._handles))
        return reply

    def _prepare(self, request: Request, identifier: Any, send: Emitter) -> Tuple[str, Call, float]:
        message = request.message
        command = message.get("command")
        if type(command) is not str or (command not in self._operations.table and command != "exec"):
            raise _unknown(command)
        mode = message.get("values") or "plain"
        encode = self._operations.encoders.get(mode) if type(mode) is str else None
        if encode is None:
            raise InvalidRequest('the value mode "{}" is none of plain, tagged'.format(str(message["values"])[:40]))
        emit = None
        if message.get("stream") is True:

            def emit(event: str, data: Any) -> None:
                send(replies.event_line(identifier, event, data))

        call = Call(checked(command, message.get("payload")), encode, emit, request.attachments, request.peer)
        return command, call, _timeout(message.get("timeout"))

    def _run(self, command: str, call: Call, identifier: Any) -> Tuple[Reply, bool]:
        """The reply, and whether it is an error."""
        try:
            result = self._perform(command, call)
            if not forks.is_session():
                forks.leave(None)
            if type(result) is Parcel:
                return _packed(identifier, result, call), False
            return replies.result_line(identifier, result, self._result_limit), False
        except BaseException as raised:  # noqa: BLE001 - the user's code may raise anything
            if not forks.is_session():
                forks.leave(raised)
            return self._failure(identifier, raised), True

    def _perform(self, command: str, call: Call) -> Any:
        if command == "exec":
            return self._operations.execute(call)
        operation = self._operations.table[command]
        return self._interrupts.run(lambda: operation(call))

    def _failure(self, identifier: Any, raised: BaseException) -> bytes:
        try:
            return replies.error_line(identifier, self._error(raised))
        except MemoryError:
            # Drop what the failed call still holds, and take what was kept for this.
            raised.__traceback__ = None
            self._guard.make_room()
            reply = replies.error_line(identifier, self._guard.explain(MemoryError()) or _NO_ROOM)
            self._guard.take_room_back()
            return reply

    def _error(self, raised: BaseException) -> VenvdError:
        if isinstance(raised, VenvdError):
            return raised
        if self._interrupts.stopped():
            return self._interrupts.error(tracebacks.formatted(raised))
        limit = self._guard.explain(raised)
        if limit is not None:
            limit.error_type = tracebacks.type_name(raised)
            limit.traceback = tracebacks.formatted(raised)
            return limit
        return UserError(
            tracebacks.message(raised),
            error_type=tracebacks.type_name(raised),
            traceback=tracebacks.formatted(raised),
        )


def _packed(identifier: Any, parcel: Parcel, call: Call) -> Reply:
    descriptors = () if parcel.segment is None else call.peer.introduce(parcel.segment)
    return replies.package(identifier, parcel.result, parcel.attachments, descriptors)


def _timeout(given: Any) -> float:
    if given is None:
        return 0.0
    if type(given) not in (int, float) or not 0 <= given < float("inf"):
        raise InvalidRequest('"timeout" takes a number of seconds from 0 on')
    return float(given)


def _unknown(command: Any) -> VenvdError:
    if type(command) is not str:
        return InvalidRequest('the field "command" is missing; it takes a string')
    if command in PLANNED:
        return Unimplemented('"{}" is not implemented yet'.format(command))
    if command in BY_COMMAND:
        return InvalidRequest('"{}" is answered by the server, not by a session'.format(command))
    known = ", ".join(each.command for each in (*OPERATIONS, *STREAMED) if each.served_by == "session")
    return InvalidRequest('there is no command "{}"; a session knows {}'.format(command[:80], known))


def _defect(error: BaseException) -> VenvdError:
    """What is answered where this program itself failed."""
    return Internal("the session failed: {}".format(tracebacks.type_name(error)))
