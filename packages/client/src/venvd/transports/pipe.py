"""Calls over a Unix socket: CONTRACT, "Pipe"."""

from __future__ import annotations

from typing import Any

from venvd.errors import BadReply, InvalidRequest, decoded
from venvd.net.endpoint import Endpoint, Exchange
from venvd.net.lines import LineReader
from venvd.transports.base import Call, Event
from venvd_contract.framing import dump_line


class PipeReply(LineReader):
    """The reply to a call, and the events before it."""

    __slots__ = ()

    def events(self) -> list[Event]:
        found = []
        while self.events_seen:
            message = self.events_seen.popleft()
            found.append(Event(str(message["event"]), message.get("data")))
        return found

    def result(self) -> Any:
        if "error" in self.reply:
            raise decoded(self.reply)
        if "result" not in self.reply:
            raise BadReply('the reply has neither "result" nor "error"')
        return self.reply["result"]

    def received(self) -> int:
        return self.size


class PipeWire:
    """Writes calls as lines."""

    def __init__(self, endpoint: Endpoint, token: str | None) -> None:
        self.endpoint = endpoint
        self._token = token

    def exchange(self, call: Call[Any], *, stream: bool) -> tuple[Exchange, PipeReply]:
        message: dict[str, Any] = {"id": 1, "command": call.command, "payload": call.payload, "values": "tagged"}
        if call.session is not None:
            message["session"] = call.session
        if call.timeout is not None:
            message["timeout"] = call.timeout
        if self._token:
            message["token"] = self._token
        if stream:
            message["stream"] = True
        try:
            data = dump_line(message)
        except ValueError as error:
            raise InvalidRequest(f"{call.command}: the request has no JSON form: {error}") from None
        reader = PipeReply()
        return Exchange(data, reader, call.repeatable), reader
