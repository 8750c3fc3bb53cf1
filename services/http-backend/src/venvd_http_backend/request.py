"""One HTTP request within the application."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from venvd_http.asgi import Receive, Scope, Send
from venvd_http.bodies import Body
from venvd_http.heads import Head


@dataclass(slots=True)
class HttpRequest:
    """An admitted request; its head is parsed, its body is not read yet."""

    scope: Scope
    head: Head
    body: Body
    receive: Receive
    send: Send

    def header(self, name: bytes) -> bytes:
        """Return the value of a header, empty if it is absent."""
        return next((value for key, value in self.scope["headers"] if key == name), b"")

    def file_path(self) -> dict[str, str]:
        """Return the path of a file in the target, as the field `path` or, if it is not UTF-8, `pathBytes`."""
        raw = self.scope["raw_path"].partition(b"/files/")[2]
        path = unquote_to_bytes(raw)
        try:
            return {"path": path.decode()}
        except UnicodeDecodeError:
            return {"pathBytes": b64encode(path).decode()}
