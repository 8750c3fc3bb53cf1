"""`POST /rpc/PythonService/<Method>` on the HTTP port: HTTP/1.1 and PascalCase JSON."""

from __future__ import annotations

import asyncio
import logging
from itertools import chain
from typing import TypeVar

from venvd_contract.commands import COMMANDS, SESSION_COMMANDS, Command
from venvd_contract.errors import InvalidRequest, NotFound, Unimplemented, VenvdError
from venvd_core import float_arrays
from venvd_core.arrays import claim
from venvd_core.backend import Backend, Call, Request
from venvd_http.asgi import ASGIApp, Receive, Scope, Send, describe_peer, respond, respond_in_parts
from venvd_http.auth import TokenGuard
from venvd_http.bodies import Body
from venvd_http.clients import ClientGone, DisconnectWatch
from venvd_http.connection import TRANSPORT, accept
from venvd_http.heads import Head
from venvd_http.problems import refuse
from venvd_rpc_backend.compat import pascal
from venvd_rpc_backend.methods import COMMAND_NAMES, STREAMING
from venvd_rpc_backend.settings import RpcSettings
from venvd_rpc_backend.status import public_error

log = logging.getLogger(__name__)

T = TypeVar("T")

PREFIX = "/rpc/"
SERVICE = "PythonService/"
METHODS: dict[str, Command] = {each.rpc: each for each in COMMANDS if each.rpc.startswith(SERVICE)}


class Methods:
    """Answers `POST /rpc/PythonService/<Method>`; `others` answers every other path. Errors are problem details."""

    def __init__(self, others: ASGIApp, backend: Backend, guard: TokenGuard, settings: RpcSettings) -> None:
        self._others = others
        self._backend = backend
        self._guard = guard
        self._settings = settings
        self._watch = DisconnectWatch() if settings.cancel_on_disconnect else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._others(scope, receive, send)
            return
        body = Body(receive, self._settings.stall_timeout)
        head = Head(chunked=True)  # if parsing the head fails, assume that a body follows
        try:
            head = Head.of(scope["headers"], describe_peer(scope))
            command, request = await self._read(scope, head, body)
            if command.name in float_arrays.COMMANDS:
                await self._answer_float_array(scope, command, request, receive, send)
            else:
                reply = await self._wait(self._backend.call(request).future(), receive)
                await respond(send, 200, pascal.render_response(command, reply.result))
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001 — every error becomes a response
            await refuse(send, public_error(error), headers=body.choose_closing(head))

    async def _read(self, scope: Scope, head: Head, body: Body) -> tuple[Command, Request]:
        """Check the token of a client, and read its request."""
        command = _find_command(scope)
        if not command.open:
            head.caller = self._guard.admit(head.token, head.peer)
            accept(scope, head.caller.key)
        elif self._guard.open:
            accept(scope)
        payload = pascal.read_request(await body.read(self._settings.max_body))
        if command.name in SESSION_COMMANDS:
            head, payload = head.merge(payload)
        return command, Request(
            command.name,
            payload,
            head.session,
            head.timeout,
            head.values,
            name=head.call,
            lease=head.lease,
            caller=head.caller,
        )

    async def _wait(self, future: asyncio.Future[T], receive: Receive) -> T:
        return await claim(future, future if self._watch is None else self._watch.wait(future, receive))

    async def _answer_float_array(
        self, scope: Scope, command: Command, request: Request, receive: Receive, send: Send
    ) -> None:
        """Run a call; send a long result in parts."""
        call = Call(request)
        self._backend.begin(call)
        text = await self._wait(asyncio.ensure_future(float_arrays.wait_for_text(call)), receive)
        if text is None:
            await respond(send, 200, pascal.render_response(command, call.result().result))
            return
        begin, end = b'{"%b":' % pascal.BARE[command.name], b"}"
        try:
            parts = chain((begin,), float_arrays.read_text(text), (end,))
            await respond_in_parts(send, len(begin) + text.header.nbytes + len(end), parts)
        except VenvdError as error:
            log.warning("a response broke off: %s", error.message)
            scope["extensions"][TRANSPORT].abort()
        finally:
            text.close()


def _find_command(scope: Scope) -> Command:
    name = scope["path"].removeprefix(PREFIX)
    command = METHODS.get(name)
    if command is None:
        if name in COMMAND_NAMES or name in STREAMING:
            raise Unimplemented(f"{name} is served over gRPC only")
        raise NotFound(f"no such method: {name[:100]}; known are {', '.join(METHODS)}")
    if scope["method"] != "POST":
        raise InvalidRequest(f"{name} takes POST, not {scope['method']}")
    return command
