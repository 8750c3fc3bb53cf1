"""Encodes requests of the controller's REST API as HTTP, and decodes their answers. Knows no socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from venvd._controller_api import Request
from venvd._home import HOW_TO_START
from venvd._net.endpoint import Endpoint, Exchange, parse
from venvd._net.http1 import ResponseReader, head, with_body
from venvd._transports.http import error_of, parse_json
from venvd.errors import NoController, Unauthenticated, Unreachable, VenvdError

T = TypeVar("T")


class ControllerCodec:
    """The codec of one controller.

    Args:
        url: the controller's address.
        token: the token to send.
        token_source: where the token comes from, for the error message if the controller refuses it.
        ca: a PEM file with the authorities to trust.
    """

    def __init__(self, url: str, token: str | None, token_source: str | None = None, ca: str | None = None) -> None:
        self.endpoint: Endpoint = parse(url, ("http", "https"), ca)
        self._token_source = token_source
        self._headers = [("Authorization", f"Bearer {token}")] if token else []

    def encode(self, request: Request[Any]) -> tuple[Exchange, ResponseReader]:
        headers = [*self._headers, ("Accept", "application/json")]
        body = request.data
        if body:
            headers.append(("Content-Type", "application/json"))
        reader = ResponseReader()
        data = with_body(head(request.method, self.endpoint, request.target, headers), body)
        return Exchange(data, reader, request.repeatable), reader

    def encode_stream(self, path: str, query: Mapping[str, Any], last_id: str) -> tuple[Exchange, ResponseReader]:
        """Encode the request for a stream of server-sent events that begins after `last_id`."""
        headers = [*self._headers, ("Accept", "text/event-stream")]
        if last_id:
            headers.append(("Last-Event-ID", last_id))
        reader = ResponseReader()
        target = Request("GET", path, str, query=query).target
        return Exchange(with_body(head("GET", self.endpoint, target, headers)), reader, repeatable=True), reader

    def no_controller(self, error: Unreachable) -> NoController:
        return NoController(f"no controller answers at {self.endpoint.url} ({error.message}): {HOW_TO_START}")

    def decode(self, request: Request[T], reader: ResponseReader) -> T:
        """Return the caller's value, or raise the error that the controller answered."""
        if reader.status >= 400:
            raise self.decode_error(reader)
        if reader.header("content-type").startswith("text/"):
            return request.finish(bytes(reader.body).decode("utf-8", "replace"))
        return request.finish(parse_json(reader.body) if reader.body else None)

    def decode_error(self, reader: ResponseReader) -> VenvdError:
        """Return the error in an answer. If a token was refused, the message names the token's source."""
        error = error_of(reader)
        if not isinstance(error, Unauthenticated):
            return error
        if self._token_source is None:
            return Unauthenticated(
                f"the controller at {self.endpoint.url} needs its token: set VENVD_TOKEN "
                "(the file `token` in the controller's home holds it)"
            )
        return Unauthenticated(
            f"the controller at {self.endpoint.url} refused the controller's token {self._token_source}: "
            f"{error.message}"
        )
