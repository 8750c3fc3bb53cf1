"""The HTTP port: probes, metrics, and `POST /rpc/PythonService/<Method>` for old clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from venvd_contract.commands import COMMANDS, Command
from venvd_contract.errors import InvalidRequest, NotFound, TooLarge, Unimplemented, VenvdError
from venvd_core import monitor
from venvd_core.backend import Backend, Reply, Request
from venvd_core.monitor import ASGIApp, Receive, Scope, Send
from venvd_core.patience import patient
from venvd_rpc_backend import pascal
from venvd_rpc_backend.methods import BY_OTHERS, PLANNED
from venvd_rpc_backend.status import known

PREFIX = "/rpc/"
_SECONDS = {b"x-venvd-timeout": "timeout", b"x-venvd-lease": "lease"}
SERVICE = "PythonService/"
METHODS: dict[str, Command] = {each.rpc: each for each in COMMANDS if each.rpc.startswith(SERVICE)}


def app(backend: Backend, stall_timeout: float) -> ASGIApp:
    """The application; errors are problem details. A body may pause for `stall_timeout` seconds."""
    probes = monitor.app(backend)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await probes(scope, receive, send)
            return
        try:
            body = await _answer(backend, scope, receive, stall_timeout)
        except Exception as error:  # noqa: BLE001 — every error becomes a response
            await _refuse(send, known(error))
        else:
            if body is not None:
                await monitor.respond(send, 200, body)

    return serve


async def _refuse(send: Send, error: VenvdError) -> None:
    await monitor.refuse(send, error)


async def _answer(backend: Backend, scope: Scope, receive: Receive, stall_timeout: float) -> bytes | None:
    """The body of the response; None where nobody waits for it any more."""
    command = _command(scope)
    if not command.open:
        backend.authorise(monitor.bearer(scope))
    payload = pascal.payload(await _body(receive, backend.settings.max_body, stall_timeout))
    request = Request(command.name, payload, **_options(scope))
    reply = await _waited(backend.call(request).future(), receive, cancel=backend.settings.cancel_on_disconnect)
    return None if reply is None else pascal.response(command, reply.result)


def _command(scope: Scope) -> Command:
    name = scope["path"].removeprefix(PREFIX)
    command = METHODS.get(name)
    if command is None:
        if name in PLANNED or name in BY_OTHERS:
            raise Unimplemented(f"{name} is served over gRPC only")
        raise NotFound(f"no such method: {name[:100]}; known are {', '.join(METHODS)}")
    if scope["method"] != "POST":
        raise InvalidRequest(f"{name} takes POST, not {scope['method']}")
    return command


def _options(scope: Scope) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in scope["headers"]:
        if name == b"x-venvd-session":
            found["session"] = value.decode("latin-1")
        elif name == b"x-venvd-values":
            found["values"] = value.decode("latin-1")
        elif name == b"x-venvd-call":
            found["name"] = value.decode("latin-1")
        elif name in _SECONDS:
            found[_SECONDS[name]] = _seconds(value)
    return found


def _seconds(value: bytes) -> float:
    try:
        return float(value)
    except ValueError:
        raise InvalidRequest("X-Venvd-Timeout and X-Venvd-Lease take seconds") from None


async def _body(receive: Receive, limit: int, stall_timeout: float) -> bytes:
    body = bytearray()
    while True:
        try:
            async with asyncio.timeout(stall_timeout):
                message = await receive()
        except TimeoutError:
            raise InvalidRequest(f"the body stopped coming after {len(body)} bytes") from None
        if message["type"] == "http.disconnect":
            raise InvalidRequest("the client went away before its request was whole")
        body += message.get("body", b"")
        if len(body) > limit:
            raise TooLarge(f"the body is larger than the limit of {limit} bytes")
        if not message.get("more_body"):
            return bytes(body)


async def _waited(call: asyncio.Future[Reply], receive: Receive, *, cancel: bool) -> Reply | None:
    """The reply; None where the client went away, which cancels the call if that is wanted."""
    gone = asyncio.ensure_future(_disconnected(receive))
    both: set[asyncio.Future[Any]] = {call, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if call.done():
            return call.result()
        if cancel:
            call.cancel()
        return None
    finally:
        gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Server(uvicorn.Server):
    """uvicorn, but for the signals, which are the program's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server(backend: Backend, stall_timeout: float) -> Server:
    config = uvicorn.Config(
        app(backend, stall_timeout),
        http=patient(HttpToolsProtocol, stall_timeout),
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    return Server(config)
