"""`POST /rpc/PythonService/<Method>` on the HTTP port: HTTP/1.1 and PascalCase JSON."""

from __future__ import annotations

from venvd_contract.commands import COMMANDS, Command
from venvd_contract.errors import InvalidRequest, NotFound, Unimplemented
from venvd_core.backend import Backend, Request
from venvd_http.asgi import ASGIApp, Receive, Scope, Send, respond
from venvd_http.auth import TokenGuard
from venvd_http.bodies import Body
from venvd_http.clients import ClientGone, DisconnectWatch
from venvd_http.connection import TRANSPORT, tie
from venvd_http.heads import Head
from venvd_http.problems import refuse
from venvd_rpc_backend.compat import pascal
from venvd_rpc_backend.methods import COMMAND_NAMES, STREAMING
from venvd_rpc_backend.settings import RpcSettings
from venvd_rpc_backend.status import public_error

PREFIX = "/rpc/"
SERVICE = "PythonService/"
METHODS: dict[str, Command] = {each.rpc: each for each in COMMANDS if each.rpc.startswith(SERVICE)}


def create_app(others: ASGIApp, backend: Backend, guard: TokenGuard, settings: RpcSettings) -> ASGIApp:
    """Create the application; `others` answers every other path. Errors are problem details."""
    watch = DisconnectWatch() if settings.cancel_on_disconnect else None

    async def call(scope: Scope, head: Head, body: Body, receive: Receive) -> bytes:
        """Run one call; the body of its response."""
        command = _find_command(scope)
        if not command.open:
            tie(scope["extensions"][TRANSPORT], guard.check(head.token))
        payload = pascal.read_request(await body.read(settings.max_body))
        request = Request(
            command.name, payload, head.session, head.timeout, head.values, name=head.call, lease=head.lease
        )
        future = backend.call(request).future()
        reply = await (future if watch is None else watch.wait(future, receive))
        return pascal.render_response(command, reply.result)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await others(scope, receive, send)
            return
        body = Body(receive, settings.stall_timeout)
        head = Head(chunked=True)  # as long as nothing is known of the body
        try:
            head = Head.of(scope["headers"])
            response = await call(scope, head, body, receive)
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001 — every error becomes a response
            await refuse(send, public_error(error), headers=body.closing(head))
        else:
            await respond(send, 200, response)

    return serve


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
