"""Code that runs in a venv on behalf of a client that has no backend of it: a pipe backend is started for it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import Any, Self
from urllib.parse import urlsplit

from venvd_contract.errors import Busy, Conflict, DeadlineExceeded, Internal, NotFound, Unavailable, from_fields
from venvd_contract.resources import Backend, BackendSpec
from venvd_controller.backends import Backends
from venvd_controller.venvs import Venvs

_POLL_SECONDS = 0.1
_LARGEST_LINE = 32 << 20
_START_SECONDS = 1800.0
"""Seconds in which the venv of a run is built and its backend is running."""
_MOST_RUNS = 16
"""Runs at a time: each holds one of the threads that answer all requests."""


class VenvRuns:
    """Runs code in venvs, each in a fresh session of a backend named after the venv."""

    def __init__(self, backends: Backends, venvs: Venvs) -> None:
        self._backends = backends
        self._venvs = venvs
        self._places = threading.BoundedSemaphore(_MOST_RUNS)

    def run(self, venv: str, code: str, timeout: float) -> dict[str, Any]:
        """Execute code, and return the output of `exec`; `timeout` counts from the moment in which the backend runs.

        Raises:
            NotFound: there is no such venv.
            Busy: too many runs are under way.
            Unavailable: its backend does not start.
            DeadlineExceeded: its backend takes too long to start.
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
        backend = self._ensure_backend(venv)
        with _Pipe(urlsplit(backend.url or "").path, timeout, backend.token) as pipe:
            session = pipe.call("session.create", {})["id"]
            try:
                return dict(pipe.call("exec", {"code": code}, session=session, timeout=timeout))
            finally:
                with contextlib.suppress(OSError, Unavailable):
                    pipe.call("session.delete", {"id": session})

    def _ensure_backend(self, venv: str) -> Backend:
        name = f"run-{venv}"[:63].rstrip("-")
        try:
            self._backends.get(name)
        except NotFound:
            with contextlib.suppress(Conflict):  # another request has started it at this moment
                self._backends.start(BackendSpec(type="pipe", venv=venv, name=name))
        end = time.monotonic() + _START_SECONDS
        while True:
            backend = self._backends.get(name)
            if backend.venv != venv or backend.type != "pipe":
                raise Conflict(f'the backend "{name}" is not one that runs code in the venv "{venv}": stop it')
            if backend.state == "running":
                return backend
            if backend.state in {"failed", "unhealthy", "stopping"}:
                raise Unavailable(f'the backend "{name}" is {backend.state}: {backend.error or "try again"}')
            if time.monotonic() >= end:
                raise DeadlineExceeded(f'the backend "{name}" is still {backend.state} after {_START_SECONDS:g} s')
            time.sleep(_POLL_SECONDS)


class _Pipe:
    """A connection to a pipe backend."""

    def __init__(self, path: str, timeout: float, token: str | None) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout + 30)
        self._token = token
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise Unavailable(f"{path} does not answer: {error}") from None
        self._lines = self._socket.makefile("rb")

    def call(self, command: str, payload: dict[str, Any], **fields: Any) -> Any:
        request = {"command": command, "payload": payload, "token": self._token, **fields}
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
