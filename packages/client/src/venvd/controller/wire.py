"""The controller's requests as bytes, and its answers as values; knows no socket."""

from __future__ import annotations

from typing import Any, TypeVar

from venvd.controller.asks import Ask, Follow
from venvd.errors import NoController, Unauthenticated, Unreachable, VenvdError
from venvd.home import HOW_TO_START
from venvd.net.endpoint import Endpoint, Exchange, parse
from venvd.net.http1 import ResponseReader, head, with_body
from venvd.net.sse import EventParser
from venvd.transports.http import error_of, json_of

T = TypeVar("T")


class ControllerWire:
    """Args: source: where the token is from, in words, for the message where the controller refuses it."""

    def __init__(self, url: str, token: str | None, source: str | None = None) -> None:
        self.endpoint: Endpoint = parse(url, ("http", "https"))
        self._source = source
        self._headers = [("Authorization", f"Bearer {token}")] if token else []

    def exchange(self, ask: Ask[Any]) -> tuple[Exchange, ResponseReader]:
        headers = [*self._headers, ("Accept", "application/json")]
        body = ask.data
        if body:
            headers.append(("Content-Type", "application/json"))
        reader = ResponseReader()
        data = with_body(head(ask.method, self.endpoint, ask.target, headers), body)
        return Exchange(data, reader, ask.repeatable), reader

    def following(self, follow: Follow) -> tuple[Exchange, ResponseReader]:
        headers = [*self._headers, ("Accept", "text/event-stream")]
        if follow.last_id:
            headers.append(("Last-Event-ID", follow.last_id))
        reader = ResponseReader()
        target = Ask("GET", follow.path, _same, query=follow.query).target
        return Exchange(with_body(head("GET", self.endpoint, target, headers)), reader, repeatable=True), reader

    def no_controller(self, error: Unreachable) -> NoController:
        return NoController(f"no controller answers at {self.endpoint.url} ({error.message}): {HOW_TO_START}")

    def answer(self, ask: Ask[T], reader: ResponseReader) -> T:
        """The caller's value; raises the error that the controller answered."""
        if reader.status >= 400:
            raise self.error(reader)
        kind = reader.header("content-type")
        if kind.startswith("text/"):
            return ask.finish(bytes(reader.body).decode("utf-8", "replace"))
        return ask.finish(json_of(reader.body) if reader.body else None)

    def error(self, reader: ResponseReader) -> VenvdError:
        """The error that the controller answered; whose token was refused is said, since a backend has one too."""
        error = error_of(reader)
        if not isinstance(error, Unauthenticated):
            return error
        if self._source is None:
            return Unauthenticated(
                f"the controller at {self.endpoint.url} needs its token: name it with VENVD_TOKEN "
                "(it lies in the file `token` of the controller's home)"
            )
        return Unauthenticated(
            f"the controller at {self.endpoint.url} refused the controller's token {self._source}: {error.message}"
        )


def _same(value: Any) -> Any:
    return value


class Events:
    """Gives each new event of a stream to what follows it."""

    def __init__(self, wire: ControllerWire, follow: Follow, reader: ResponseReader) -> None:
        self._wire = wire
        self._follow = follow
        self._reader = reader
        self._parser = EventParser()

    def stop(self) -> bool:
        """Take what came; whether that was enough.

        Raises:
            VenvdError: what the controller answered in place of a stream.
        """
        reader = self._reader
        if not reader.has_head:
            return False
        if reader.status >= 400:
            if reader.done:
                raise self._wire.error(reader)
            return False
        enough = [self._follow.take(event) for event in self._parser.feed(reader.take())]
        return any(enough)
