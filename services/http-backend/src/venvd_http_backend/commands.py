"""Commands: passes headers and bodies to core, and the session's JSON to clients, without parsing them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from venvd_contract.commands import SESSION_COMMANDS
from venvd_contract.errors import InvalidRequest, TooLarge, Unauthenticated
from venvd_contract.venvs import PASSED_ON
from venvd_core import float_arrays, logs
from venvd_core.arrays import claim
from venvd_core.backend import Backend, Call, Request
from venvd_core.callers import name_caller
from venvd_core.tasks import Tasks
from venvd_core.wire import encode, parse_object
from venvd_http.asgi import Receive, respond, respond_in_parts
from venvd_http.auth import Key, TokenGuard
from venvd_http.bodies import too_large
from venvd_http.clients import DisconnectWatch
from venvd_http.heads import Head
from venvd_http_backend.request import HttpRequest
from venvd_http_backend.settings import HttpSettings

T = TypeVar("T")


class Commands:
    """Serves the commands of one backend.

    Attributes:
        stall_timeout: seconds that a client may pause in the middle of a request, or leave a response unread.
        watch: cancels the calls of disconnected clients; None if these calls run on.
        tasks: the tasks that send long responses of the fast path.
    """

    def __init__(self, backend: Backend, guard: TokenGuard, settings: HttpSettings) -> None:
        self.backend = backend
        self.stall_timeout = settings.stall_timeout
        self.watch = DisconnectWatch() if settings.cancel_on_disconnect else None
        self.tasks = Tasks()
        self._guard = guard
        self._limit = settings.max_body

    def admit(self, head: Head) -> Key | None:
        """Check that the sender of a request may call, and store the sender; return its access key, if any.

        Raises:
            Unauthenticated, Forbidden: it may not.
        """
        try:
            head.caller = self._guard.admit(head.token, head.peer)
        except Unauthenticated as error:
            if head.token is None:
                how = "send it as the header `Authorization: Bearer TOKEN`"
                raise Unauthenticated(f"{error.message}: {how}") from None
            raise
        return head.caller.key

    async def serve(self, command: str, request: HttpRequest, payload: dict[str, Any]) -> None:
        """Answer one request; `payload` has the fields of its path and query, which are added to its body."""
        body = await self.read_body(command, request)
        if payload:
            body = encode({**_parse_body(body), **payload})
        made = make_request(command, request.head, body)
        if command in PASSED_ON:
            made.token = request.head.token
        call = self.backend.call(made)
        reply = await self._wait(call.future(), request.receive)
        await respond(request.send, 200, reply.result)

    async def serve_float_array(self, command: str, request: HttpRequest) -> None:
        """Answer one request for a float array; send a long one in parts."""
        call = Call(make_request(command, request.head, await self.read_body(command, request)))
        self.backend.begin(call)
        text = await self.wait(float_arrays.wait_for_text(call), request.receive)
        if text is None:
            await respond(request.send, 200, call.result().result)
            return
        try:
            await respond_in_parts(request.send, text.header.nbytes, float_arrays.read_text(text))
        finally:
            text.close()

    async def read_body(self, command: str, request: HttpRequest) -> bytes:
        """Read the whole body of a request.

        Raises:
            TooLarge: the body exceeds the backend's limit.
            InvalidRequest, ClientGone: as `Body.read`.
        """
        head, body = request.head, request.body
        try:
            if head.length > self._limit and head.expects:
                raise too_large(self._limit)  # the client waits for `100 Continue` before it sends the body
            return await body.read(self._limit) if head.has_body else b""
        except TooLarge as error:
            logs.log_call(command, error.code, key=name_caller(head.caller), error=error)
            raise

    async def wait(self, work: Coroutine[Any, Any, T], receive: Receive) -> T:
        """Wait for `work` and return its result; cancel it if the client disconnects.

        Raises:
            ClientGone: the client disconnected.
        """
        return await self._wait(asyncio.ensure_future(work), receive)

    async def _wait(self, future: asyncio.Future[T], receive: Receive) -> T:
        return await claim(future, future if self.watch is None else self.watch.wait(future, receive))


def _parse_body(body: bytes) -> dict[str, Any]:
    """Parse a body that is added to the fields of the path.

    Raises:
        InvalidRequest, TooLarge: it is no JSON object.
    """
    fields = parse_object(body) if body.strip() else {}
    if not isinstance(fields, dict):
        raise InvalidRequest("the request must be a JSON object")
    return fields


def make_request(command: str, head: Head, body: bytes) -> Request:
    """Make the request for core.

    Raises:
        InvalidRequest: an option in the body is wrong; see `Head.merge`.
    """
    if command in SESSION_COMMANDS:
        head, body = head.merge(body)
    return Request(
        command,
        body or b"{}",
        head.session,
        head.timeout,
        head.values,
        name=head.call,
        lease=head.lease,
        caller=head.caller,
    )
