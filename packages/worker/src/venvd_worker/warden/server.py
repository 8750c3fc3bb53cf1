"""The warden's connection to the one server that it serves."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict
from typing import Any, NamedTuple, Optional, Sequence

from venvd_contract.errors import VenvdError
from venvd_contract.internal import SECRET, SOCKET, messages
from venvd_worker.common.control import ControlConnection

_EVENT_NAMES = {kind: name for name, kind in messages.EVENTS.items()}


class Request(NamedTuple):
    """A command of the server. The warden closes its descriptors when its handler returns.

    Attributes:
        number: the number that the reply repeats.
        data: the checked message.
    """

    number: Any
    data: Any
    descriptors: Sequence[int]


class Server:
    """Sends replies and events to the server. Once the server is gone, it drops them.

    Attributes:
        connection: None before the warden has joined the server, and once the server is gone.
        greeted: whether the server has sent `hello`.
    """

    def __init__(self) -> None:
        self.connection: Optional[ControlConnection] = None
        self.greeted = False

    def reply(self, request: Request, result: Optional[object] = None) -> None:
        """Answer `request` with a message of `messages`."""
        fields = {} if result is None else asdict(result)  # type: ignore[call-overload]
        self._send({"id": request.number, "result": fields})

    def reply_error(self, request: Request, error: VenvdError) -> None:
        self._send({"id": request.number, "error": error.message, "code": error.code})

    def send_event(self, event: object) -> None:
        if self.greeted:
            self._send({"event": _EVENT_NAMES[type(event)], "data": asdict(event)})  # type: ignore[call-overload]

    def pass_on(self, event: object) -> None:
        """Send an event that user code caused. There may be many, so this drops it while the server does not read."""
        if self.connection is not None and not self.connection.blocked:
            self.send_event(event)

    def _send(self, packet: Any) -> None:
        if self.connection is not None:
            self.connection.send(packet)


def join(channel: str) -> ControlConnection:
    """Connect to the server with the secret that the server has left in the channel.

    Raises:
        OSError: the server does not listen there yet, or will not.
    """
    with open(os.path.join(channel, SECRET), encoding="ascii") as file:
        secret = file.read()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(False)
        sock.connect(os.path.join(channel, SOCKET))
        connection = ControlConnection(sock)
        connection.send({"event": _EVENT_NAMES[messages.Join], "data": asdict(messages.Join(secret))})
    except BaseException:
        sock.close()
        raise
    return connection
