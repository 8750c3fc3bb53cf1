"""The warden's connection to the one server that it serves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple, Optional, Sequence

from venvd_contract.errors import VenvdError
from venvd_contract.internal import messages
from venvd_contract.internal.control import close_descriptors
from venvd_worker.common.control import ControlConnection

_EVENT_NAMES = {kind: name for name, kind in messages.EVENTS.items()}


class Request(NamedTuple):
    """A command of the server. Its descriptors are closed when its handler returns.

    Attributes:
        connection: the server that sent it, which may be gone when the command is done.
        number: repeated in the reply.
        data: the checked message.
    """

    connection: ControlConnection
    number: Any
    data: Any
    descriptors: Sequence[int]


class Server:
    """Sends replies and events to the server; without a server they are dropped.

    Attributes:
        connection: None while there is no server.
        greeted: whether it has said `hello`.
    """

    def __init__(self) -> None:
        self.connection: Optional[ControlConnection] = None
        self.greeted = False

    def is_waiting(self, request: Request) -> bool:
        """Whether the server that sent `request` is still there."""
        return self.connection is request.connection

    def reply(self, request: Request, result: Optional[object] = None, descriptors: Sequence[int] = ()) -> None:
        """Answer `request` with a message of `messages`; closes the descriptors."""
        fields = {} if result is None else asdict(result)  # type: ignore[call-overload]
        self._send({"id": request.number, "result": fields}, descriptors, request.connection)

    def reply_error(self, request: Request, error: VenvdError) -> None:
        self._send({"id": request.number, "error": error.message, "code": error.code}, (), request.connection)

    def send_event(self, event: object) -> None:
        if self.greeted:
            self._send({"event": _EVENT_NAMES[type(event)], "data": asdict(event)}, ())  # type: ignore[call-overload]

    def pass_on(self, event: object, descriptors: Sequence[int] = ()) -> None:
        """Send an event that user code caused. There may be many: while the server does not read, they are dropped."""
        if self.connection is None or self.connection.blocked or not self.greeted:
            close_descriptors(descriptors)
        else:
            self._send({"event": _EVENT_NAMES[type(event)], "data": asdict(event)}, descriptors)  # type: ignore[call-overload]

    def _send(self, packet: Any, descriptors: Sequence[int], to: Optional[ControlConnection] = None) -> None:
        if self.connection is None or (to is not None and to is not self.connection):
            close_descriptors(descriptors)
        else:
            self.connection.send(packet, descriptors)
