"""The transports as the suite sees them: one class each, with nothing of the SDK in it."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

from harness.rpc import RpcCaller
from venvd_contract.commands import BY_NAME
from venvd_contract.errors import VenvdError, from_fields


class Caller(Protocol):
    """Calls operations; errors are raised as those of the contract."""

    def __call__(
        self,
        command: str,
        payload: Any = None,
        *,
        session: str | None = None,
        timeout: float | None = None,
        values: str | None = None,
        name: str | None = None,
        lease: float | None = None,
    ) -> Any: ...

    def fresh(self) -> Caller:
        """Another connection to the same backend."""

    def with_token(self, token: str | None) -> Caller:
        """Another connection that shows another token."""

    def close(self) -> None: ...


class HttpCaller:
    def __init__(self, url: str, token: str | None) -> None:
        self._url, self._token = url, token
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def __call__(
        self,
        command: str,
        payload: Any = None,
        *,
        session: str | None = None,
        timeout: float | None = None,
        values: str | None = None,
        name: str | None = None,
        lease: float | None = None,
    ) -> Any:
        method, path = BY_NAME[command].http
        if isinstance(payload, dict):
            identity = session if command.startswith("file.") else payload.get("id")
            path = path.format(id=quote(str(identity), safe=""), path=quote(str(payload.get("path")), safe="/"))
        if method in {"GET", "DELETE"} and payload:
            path += "?" + urlencode({name: value for name, value in payload.items() if name != "id"})
        wanted = {
            "Authorization": self._token and f"Bearer {self._token}",
            "X-Venvd-Session": session,
            "X-Venvd-Timeout": timeout and str(timeout),
            "X-Venvd-Values": values,
            "X-Venvd-Call": name,
            "X-Venvd-Lease": lease and str(lease),
        }
        headers = {name: value for name, value in wanted.items() if value is not None}
        body = None if method == "GET" else json.dumps({} if payload is None else payload)
        self._connection.request(method, path, body, headers)
        return self.receive()

    def send(self, command: str, payloads: list[Any], session: str) -> None:
        """Send one request without waiting; `receive` waits for its answer."""
        (payload,) = payloads
        headers = {"Authorization": f"Bearer {self._token}", "X-Venvd-Session": session}
        self._connection.request(*BY_NAME[command].http, json.dumps(payload), headers)

    def receive(self) -> Any:
        """The answer to the request that was sent last."""
        response = self._connection.getresponse()
        reply = json.loads(response.read())
        if response.status >= http.client.BAD_REQUEST:
            raise from_fields(reply)
        return reply

    def fresh(self) -> HttpCaller:
        return HttpCaller(self._url, self._token)

    def with_token(self, token: str | None) -> HttpCaller:
        return HttpCaller(self._url, token)

    def close(self) -> None:
        self._connection.close()


class PipeCaller:
    def __init__(self, url: str, token: str | None) -> None:
        self._url, self._token = url, token
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(urlsplit(url).path)
        self._lines = self._socket.makefile("rb")

    def __call__(
        self,
        command: str,
        payload: Any = None,
        *,
        session: str | None = None,
        timeout: float | None = None,
        values: str | None = None,
        name: str | None = None,
        lease: float | None = None,
    ) -> Any:
        request = {"command": command, "payload": payload, "session": session, "timeout": timeout, "values": values}
        line = json.dumps({**request, "call": name, "lease": lease, "token": self._token})
        self._socket.sendall(line.encode() + b"\n")
        return self.receive()

    def send(self, command: str, payloads: list[Any], session: str) -> None:
        """Send requests without waiting; `receive` waits for the answers, in their order."""
        fields = {"command": command, "session": session, "token": self._token}
        lines = [json.dumps({**fields, "payload": payload}) + "\n" for payload in payloads]
        self._socket.sendall("".join(lines).encode())

    def receive(self) -> Any:
        """The next answer."""
        reply = json.loads(self._lines.readline())
        if "error" in reply:
            raise from_fields(reply)
        return reply["result"]

    def ended(self) -> bool:
        """Whether the other end is closed."""
        self._socket.setblocking(False)
        try:
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        finally:
            self._socket.settimeout(60)

    def fresh(self) -> PipeCaller:
        return PipeCaller(self._url, self._token)

    def with_token(self, token: str | None) -> PipeCaller:
        return PipeCaller(self._url, token)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class AttachCaller:
    """Calls over a pipe of which sessions answer theirs directly, each on a connection that was handed to it."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url, self._token = url, token
        self._server = PipeCaller(url, token)
        self._direct: dict[str | None, PipeCaller] = {}

    def __call__(
        self, command: str, payload: Any = None, *, session: str | None = None, name: str | None = None, **options: Any
    ) -> Any:
        operation = BY_NAME.get(command)
        if name is not None or operation is None or operation.served_by != "session":
            return self._server(command, payload, session=session, name=name, **options)
        direct = self._direct.get(session)
        if direct is not None and direct.ended():
            self._direct.pop(session).close()
        if session not in self._direct:
            self._direct[session] = self.attached(session)
        try:
            return self._direct[session](command, payload, **options)
        except VenvdError as error:
            if error.state_lost:  # and with it the connection, as soon as the server comes to it
                self._direct.pop(session).close()
            raise

    def attached(self, session: str | None) -> PipeCaller:
        """Another connection, attached to a session."""
        made = PipeCaller(self._url, self._token)
        try:
            made("session.attach", session=session)
        except VenvdError:
            made.close()
            raise
        return made

    def fresh(self) -> AttachCaller:
        return AttachCaller(self._url, self._token)

    def with_token(self, token: str | None) -> AttachCaller:
        return AttachCaller(self._url, token)

    def close(self) -> None:
        for each in (self._server, *self._direct.values()):
            each.close()


CALLERS: dict[str, Any] = {"http": HttpCaller, "pipe": PipeCaller, "rpc": RpcCaller}
WAYS: dict[str, tuple[str, Any]] = {
    **{kind: (kind, made) for kind, made in CALLERS.items()},
    "attach": ("pipe", AttachCaller),
}
"""Ways to call: the type of the backend, and the caller."""
