"""`venvd_host`: manages venvs from inside a session of a backend with the field `manages`.

The server sends this source into each session of such a backend, which executes it as the module `venvd_host`. It talks
to the server over a socket of its own, one JSON object a line: `{"id", "command", "payload"}`, answered with `{"id",
"result"}` or `{"id", "error", "code"}`. The server asks the controller with a key that never enters the session.
"""

import json
import socket
import threading
from typing import Any, Dict, List, Optional, Sequence

LARGEST_LINE = 1 << 20
"""Bytes of a request."""

_lock = threading.Lock()
_socket: Optional[socket.socket] = None
_received = b""
_number = 0


class VenvError(Exception):
    """An error of the server or the controller; `code` is stable, such as `forbidden` or `conflict`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _connect(descriptor: int) -> None:
    global _socket  # noqa: PLW0603 - a session has one
    _socket = socket.socket(fileno=descriptor)


def _call(command: str, payload: Dict[str, Any]) -> Any:
    global _number, _received  # noqa: PLW0603 - an interrupted call leaves its answer for the next one to skip
    if _socket is None:
        raise VenvError("unavailable", "this process has no connection to the server of its session")
    with _lock:
        _number += 1
        number = _number
        line = json.dumps({"id": number, "command": command, "payload": payload}).encode() + b"\n"
        if len(line) > LARGEST_LINE:
            raise VenvError("too_large", "the request is larger than {} bytes".format(LARGEST_LINE))
        try:
            _socket.setblocking(True)
            _socket.sendall(line)
            while True:
                answer, newline, rest = _received.partition(b"\n")
                if not newline:
                    data = _socket.recv(65536)
                    if not data:
                        raise VenvError("unavailable", "the server has ended the connection")
                    _received += data
                    continue
                _received = rest
                reply = json.loads(answer)
                if reply.get("id") == number:
                    break
        except OSError as error:
            raise VenvError("unavailable", "the process cannot reach the server: {}".format(error)) from None
    if "error" in reply:
        raise VenvError(reply.get("code", "internal"), reply["error"])
    return reply["result"]


class VenvManager:
    """Makes, lists and deletes the venvs that this backend manages, and runs code in them."""

    def ensure_provider_environment(self, provider: str, model: Optional[str] = None) -> str:
        """Ensure that the venv of a provider is built; return its directory, or its name on other engines."""
        path: str = _call("venv.ensure", {"provider": provider, "model": model, "wait": True})["path"]
        return path

    def create_environment(
        self, name: str, requirements: Sequence[str] = (), python: Optional[str] = None, **spec: Any
    ) -> Dict[str, Any]:
        """Create a venv and wait until it is built; `spec` are further fields of a venv. Return the venv."""
        fields = {"requirements": list(requirements), "python": python, **spec}
        venv: Dict[str, Any] = _call("venv.create", {"name": name, "spec": fields, "wait": True})["venv"]
        return venv

    def list_environments(self) -> List[Dict[str, Any]]:
        """List the venvs that this backend manages."""
        venvs: List[Dict[str, Any]] = []
        after = None
        while True:
            page = _call("venv.list", {"after": after})
            venvs += page["items"]
            after = page.get("next")
            if after is None:
                return venvs

    def delete_environment(self, name: str) -> None:
        """Delete a venv that no backend uses."""
        _call("venv.delete", {"name": name})

    def run_in_environment(self, name: str, code: str, timeout: Optional[float] = None) -> Dict[str, Any]:
        """Execute code in a fresh session of a venv; return its output: `stdout`, `stderr`, `result`, `error`, …"""
        output: Dict[str, Any] = _call("venv.run", {"name": name, "code": code, "timeout": timeout})
        return output
