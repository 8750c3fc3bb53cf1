"""Passes calls on to HTTP backends, for clients that reach only the controller, such as its web page.

A call keeps the token of its caller, so the backend admits and names it as if it had come directly. The token of the
controller's home never leaves the controller: its owner calls with the token of the backend, as the SDK does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from anyio.to_thread import run_sync
from starlette.responses import Response

from venvd_contract.errors import Busy, Forbidden, Unavailable, Unimplemented
from venvd_controller import certificates
from venvd_controller.backends import Backends
from venvd_controller.callers import Caller
from venvd_engines.engine import LaunchRecord
from venvd_http.asgi import Receive, Scope, Send
from venvd_http.auth import read_token
from venvd_http.clients import wait_for_disconnect
from venvd_http.connection import TRANSPORT
from venvd_http.tls import NEEDS_CERTIFICATE

MOST_OF_ONE = 16
"""How many calls of one caller may pass through at a time."""
MOST = 256
_CONNECT_SECONDS = 5.0
_CALL_HEADERS = (
    b"accept",
    b"content-type",
    b"x-venvd-call",
    b"x-venvd-lease",
    b"x-venvd-session",
    b"x-venvd-timeout",
    b"x-venvd-values",
)
"""The headers that the controller passes on. The controller itself checks `Origin`, and needs no cookies."""
_ANSWER_HEADERS = frozenset({b"content-type", b"cache-control", b"retry-after", b"x-accel-buffering"})
_UNAUTHENTICATED, _FORBIDDEN = 401, 403


@dataclass(frozen=True)
class Target:
    """Where a call goes.

    Attributes:
        record: the record of the backend's launch.
        context: the TLS context, which accepts the certificate that the server was given.
        shows_certificate: whether the controller has a certificate to show.
        token: the token that the backend gets in place of the caller's; None passes the caller's on.
        has_token: whether the backend asks for a token at all.
    """

    record: LaunchRecord
    context: ssl.SSLContext
    shows_certificate: bool
    token: str | None
    has_token: bool


class Forwarder:
    """Passes calls on, and counts those that run.

    Args:
        backends: the backends to which calls go.
        client_files: certificate and key that the controller shows to backends that ask for a certificate.
    """

    def __init__(self, backends: Backends, client_files: tuple[Path, Path] | None = None) -> None:
        self._backends = backends
        self._client_files = client_files
        self._running: Counter[str] = Counter()

    @contextmanager
    def count(self, caller: Caller) -> Iterator[None]:
        """Count a call of `caller` until the end of the block.

        Raises:
            Busy: too many calls run.
        """
        if self._running[caller.name] >= MOST_OF_ONE:
            raise Busy(f"{MOST_OF_ONE} calls of {caller.title} pass through the controller: wait for one to end")
        if self._running.total() >= MOST:
            raise Busy(f"{MOST} calls pass through the controller: wait for one to end, or call the backend directly")
        self._running[caller.name] += 1
        try:
            yield
        finally:
            self._running[caller.name] -= 1
            if not self._running[caller.name]:
                del self._running[caller.name]

    def find_target(self, caller: Caller | None, name: str) -> Target:
        """Find where the calls of a backend go. Without a caller, the controller calls on its own behalf.

        Raises:
            NotFound: there is no such backend.
            Unimplemented: it is not an HTTP backend.
            Conflict: it does not run.
        """
        row = self._backends.get_row(name)
        if row.spec["type"] != "http":
            raise Unimplemented(
                f'the backend "{name}" is of type {row.spec["type"]}; the controller passes on calls of type http alone'
            )
        front = self._backends.list_launches(name)[-1]
        record = self._backends.get_launch_record(front.name if front.is_router else name)
        files = self._client_files if record.probe_url.startswith("https:") else None
        create = certificates.create_showing_context
        context = certificates.create_context(record) if files is None else create(record, *files)
        token = self._backends.tokens.derive(row)
        return Target(
            record, context, files is not None, token if caller is None or caller.is_home else None, token is not None
        )


class ForwardedCall(Response):
    """Answers a request with the answer of a backend.

    Args:
        forwarder: passes the request on.
        caller: the sender of the request.
        name: the backend.
        path: the path at the backend.
        body: the body of the request.
    """

    def __init__(self, forwarder: Forwarder, caller: Caller, name: str, path: str, body: bytes) -> None:
        super().__init__()
        self._forwarder = forwarder
        self._caller = caller
        self._name = name
        self._path = path
        self._body = body
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on until it ends or its client leaves. If the client leaves, the backend cancels the call.

        Raises:
            VenvdError: the backend did not answer.
        """
        with self._forwarder.count(self._caller):
            target = await run_sync(self._forwarder.find_target, self._caller, self._name)
            work = asyncio.ensure_future(self._pass_on(target, scope, send))
            gone = asyncio.ensure_future(wait_for_disconnect(receive))
            try:
                await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    await work
            finally:
                for task in (work, gone):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await task

    async def _pass_on(self, target: Target, scope: Scope, send: Send) -> None:
        headers = [(key, value) for key, value in scope["headers"] if key in _CALL_HEADERS]
        token = target.token or read_token(scope)
        if target.has_token:
            headers.append((b"authorization", f"Bearer {token}".encode("latin-1")))
        timeout = httpx2.Timeout(None, connect=_CONNECT_SECONDS)
        try:
            async with (
                # one connection for each call: a backend ends the connections of a revoked key
                httpx2.AsyncClient(trust_env=False, timeout=timeout, verify=target.context) as client,
                client.stream(
                    scope["method"], target.record.probe_url + self._path, headers=headers, content=self._body
                ) as answer,
            ):
                await self._answer(answer, send)
        except httpx2.ConnectError as error:
            tls_error = _find_tls_error(error)
            reason = error if tls_error is None else certificates.describe_failure(target.record, tls_error)
            raise Unavailable(f'the backend "{self._name}" cannot be reached: {reason}') from None
        except httpx2.TransportError as error:
            if self._started:
                _break_off(scope)
                return
            # a server that refuses a certificate ends the connection after the handshake, without an answer
            hint = (
                "; if it asks for certificates (tlsClientCa), is the one in VENVD_CLIENT_CERT of the controller signed "
                "by an authority there?"
            )
            raise Unavailable(
                f'the connection to the backend "{self._name}" broke off: {error or type(error).__name__}'
                f"{hint if target.shows_certificate else ''}"
            ) from None

    async def _answer(self, answer: httpx2.Response, send: Send) -> None:
        if answer.status_code == _UNAUTHENTICATED:  # otherwise the client would think that its token is wrong
            raise Forbidden(f'the backend "{self._name}" does not accept {self._caller.title}')
        if answer.status_code == _FORBIDDEN:
            await self._check_certificate(answer)
        headers = [(key.lower(), value) for key, value in answer.headers.raw if key.lower() in _ANSWER_HEADERS]
        self._started = True
        await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        async for piece in _read_raw(answer):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _check_certificate(self, answer: httpx2.Response) -> None:
        """If the server refused a call that lacks a certificate, raise an error that says how to mend it."""
        if NEEDS_CERTIFICATE.encode() in await answer.aread():
            raise Forbidden(
                f'the backend "{self._name}" asks for a certificate of its clients (tlsClientCa), and the controller '
                "has none to show: set VENVD_CLIENT_CERT and VENVD_CLIENT_KEY of the controller to one that an "
                "authority in tlsClientCa has signed, or call the backend directly with one of your own"
            )


async def _read_raw(answer: httpx2.Response) -> AsyncIterator[bytes]:
    """Yield the pieces of the body. It is one piece if it was read already."""
    if answer.is_stream_consumed:
        yield answer.content
        return
    async for piece in answer.aiter_raw():
        yield piece


def _find_tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Find the TLS error behind an error of the HTTP client."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _break_off(scope: Scope) -> None:
    """End the connection of a request whose answer is not complete, so that the client notices."""
    transport = (scope.get("extensions") or {}).get(TRANSPORT)
    if transport is not None:
        transport.abort()
