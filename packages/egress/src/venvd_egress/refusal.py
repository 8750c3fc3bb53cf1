"""Refusals of a broker, with their reasons."""

from __future__ import annotations

from typing import Any, Dict

from venvd_egress.exchange import write_error


class Refused(Exception):
    """The broker refuses a connection to a destination.

    Attributes:
        host, port: the destination.
        kind: `destination`, `address` or `unreachable`.
    """

    def __init__(self, host: str, port: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.host = host
        self.port = port
        self.kind = kind

    def write(self) -> bytes:
        """Write the answer to the client."""
        status, title = (502, "Bad Gateway") if self.kind == "unreachable" else (403, "Forbidden")
        return write_error(status, title, str(self))

    def describe(self) -> Dict[str, Any]:
        """Describe the refusal for a log."""
        return {"host": self.host, "port": self.port, "kind": self.kind, "reason": str(self)}
