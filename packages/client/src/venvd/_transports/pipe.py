"""Encodes calls over a Unix socket as lines, and decodes their replies. Knows no socket."""

from __future__ import annotations

from typing import Any

from venvd._net.endpoint import Endpoint, Exchange
from venvd._net.lines import LineReader
from venvd._transports.base import Call, Event
from venvd.errors import BadReply, InvalidRequest, error_from_reply
from venvd_contract.framing import dump_line


class PipeReply(LineReader):
    """The reply to a call, and the events before it."""

    __slots__ = ()

    def events(self) -> list[Event]:
        events = []
        while self.events_seen:
            message = self.events_seen.popleft()
            events.append(Event(str(message["event"]), message.get("data")))
        return events

    def result(self) -> Any:
        if "error" in self.reply:
            raise error_from_reply(self.reply)
        if "result" not in self.reply:
            raise BadReply('the reply has neither "result" nor "error"')
        result = self.reply["result"]
        return {**result, "attached": b"".join(self.attachments)} if "attachments" in self.reply else result

    def count_bytes(self) -> int:
        return self.size


class PipeCodec:
    """Encodes calls as lines."""

    def __init__(self, endpoint: Endpoint, token: str | None) -> None:
        self.endpoint = endpoint
        self.token = token

    def exchange(self, call: Call[Any], *, stream: bool) -> tuple[Exchange, PipeReply]:
        message: dict[str, Any] = {"id": 1, "command": call.command, "payload": call.payload, "values": "tagged"}
        if call.session is not None:
            message["session"] = call.session
        if call.lease is not None:
            message["lease"] = call.lease
        if call.timeout is not None:
            message["timeout"] = call.timeout
        if self.token:
            message["token"] = self.token
        if stream:
            message["stream"] = True
        if call.body is not None:
            message["attachments"] = [len(call.body)]
        try:
            data = dump_line(message)
        except ValueError as error:
            raise InvalidRequest(f"{call.command}: the request has no JSON form: {error}") from None
        reader = PipeReply()
        return Exchange(data + call.body if call.body else data, reader, call.repeatable), reader
