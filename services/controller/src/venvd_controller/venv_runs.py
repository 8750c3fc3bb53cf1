"""Runs code in a venv for a client that has no backend of the venv: the controller starts one."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, Self
from urllib.parse import quote, urlsplit

import httpx2

from venvd_contract.commands import BY_NAME
from venvd_contract.errors import Busy, Conflict, DeadlineExceeded, Internal, NotFound, Unavailable, from_fields
from venvd_contract.resources import Backend, BackendSpec
from venvd_controller.backends import Backends
from venvd_controller.forwarding import Forwarder
from venvd_controller.venvs import Venvs
from venvd_engines.engine import Engine

_POLL_SECONDS = 0.1
_LARGEST_LINE = 32 << 20
_START_SECONDS = 1800.0
"""Seconds within which the venv of a run must be built and its backend must run."""
_MARGIN_SECONDS = 30.0
"""Seconds that a backend has for its answer beyond the time for the code."""
_MOST_RUNS = 16
"""How many runs are possible at a time. Each occupies one of the threads that answer all requests."""


class VenvRuns:
    """Runs code in venvs, each in a fresh session of a backend named after the venv.

    It is a pipe backend, or an HTTP backend if clients cannot reach the engine's sockets.
    """

    def __init__(self, engine: Engine, backends: Backends, venvs: Venvs, forwarder: Forwarder) -> None:
        self._engine = engine
        self._forwarder = forwarder
        self._backends = backends
        self._venvs = venvs
        self._places = threading.BoundedSemaphore(_MOST_RUNS)

    def run(self, venv: str, code: str, timeout: float) -> dict[str, Any]:
        """Execute code, and return the output of `exec`; `timeout` counts from the moment at which the backend runs.

        Raises:
            NotFound: there is no such venv.
            Busy: too many runs are under way.
            Unavailable: the backend does not start.
            DeadlineExceeded: the backend takes too long to start.
            VenvdError: an error of the backend.
        """
        self._venvs.get(venv)
        if not self._places.acquire(blocking=False):
            raise Busy(f"{_MOST_RUNS} runs are under way, and no more run at a time: try again when one has ended")
        try:
            return self._run(venv, code, timeout)
        finally:
            self._places.release()

    def _run(self, venv: str, code: str, timeout: float) -> dict[str, Any]:
        with self._connect(self._ensure_backend(venv), timeout) as connection:
            session = connection.call("session.create", {})["id"]
            try:
                return dict(connection.call("exec", {"code": code, "session": session, "timeout": timeout}))
            finally:
                with contextlib.suppress(OSError, Unavailable):
                    connection.call("session.delete", {"id": session})

    @contextmanager
    def _connect(self, backend: Backend, timeout: float) -> Iterator[_Connection]:
        if backend.type == "pipe":
            with _Pipe(urlsplit(backend.url or "").path, timeout, backend.token) as pipe:
                yield pipe
            return
        target = self._forwarder.find_target(None, backend.name)
        headers = {} if target.token is None else {"Authorization": f"Bearer {target.token}"}
        with httpx2.Client(
            base_url=target.record.probe_url,
            headers=headers,
            timeout=timeout + _MARGIN_SECONDS,
            trust_env=False,
            verify=target.context,
        ) as client:
            yield _Http(client)

    def _ensure_backend(self, venv: str) -> Backend:
        name = f"run-{venv}"[:63].rstrip("-")
        kind: Literal["pipe", "http"] = "pipe" if self._engine.capabilities().sockets else "http"
        try:
            self._backends.get(name)
        except NotFound:
            with contextlib.suppress(Conflict):  # another request has started it at this moment
                self._backends.start(BackendSpec(type=kind, venv=venv, name=name))
        end = time.monotonic() + _START_SECONDS
        while True:
            backend = self._backends.get(name)
            if backend.venv != venv or backend.type != kind:
                raise Conflict(f'the backend "{name}" is not one that runs code in the venv "{venv}": stop it')
            if backend.state == "running":
                return backend
            if backend.state in {"failed", "unhealthy", "stopping"}:
                raise Unavailable(f'the backend "{name}" is {backend.state}: {backend.error or "try again"}')
            if time.monotonic() >= end:
                raise DeadlineExceeded(f'the backend "{name}" is still {backend.state} after {_START_SECONDS:g} s')
            time.sleep(_POLL_SECONDS)


class _Connection(Protocol):
    """A connection to a backend. A call takes the fields of an HTTP request."""

    def call(self, command: str, payload: dict[str, Any]) -> Any: ...


class _Http:
    """A connection to an HTTP backend."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def call(self, command: str, payload: dict[str, Any]) -> Any:
        method, path = BY_NAME[command].http
        try:
            answer = self._client.request(
                method,
                path.format(id=quote(str(payload.get("id")), safe="")),
                json=None if method == "DELETE" else payload,
            )
            content = answer.json()
        except httpx2.TimeoutException:
            raise DeadlineExceeded("the backend did not answer in time") from None
        except httpx2.TransportError as error:
            raise Unavailable(f"the backend does not answer: {error or type(error).__name__}") from None
        except ValueError:
            raise Internal(f"the backend answered with status {answer.status_code} and no JSON") from None
        if answer.is_error:
            raise from_fields(content)
        return content


_REQUEST_FIELDS = frozenset({"session", "timeout"})
"""Fields that stand beside the payload of a request of the pipe, and not in it."""


class _Pipe:
    """A connection to a pipe backend."""

    def __init__(self, path: str, timeout: float, token: str | None) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout + _MARGIN_SECONDS)
        self._token = token
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise Unavailable(f"{path} does not answer: {error}") from None
        self._lines = self._socket.makefile("rb")

    def call(self, command: str, payload: dict[str, Any]) -> Any:
        request = {name: value for name, value in payload.items() if name in _REQUEST_FIELDS}
        fields = {name: value for name, value in payload.items() if name not in _REQUEST_FIELDS}
        request |= {"command": command, "payload": fields, "token": self._token}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            line = self._lines.readline(_LARGEST_LINE)
        except TimeoutError:
            raise DeadlineExceeded("the backend did not answer in time") from None
        except OSError as error:
            raise Unavailable(f"the backend does not answer: {error}") from None
        try:
            answer = json.loads(line)
        except ValueError:
            raise Internal("the backend ended the connection") from None
        if "error" in answer:
            raise from_fields(answer)
        return answer["result"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()
