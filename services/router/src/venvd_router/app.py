"""The ASGI application of the router."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from venvd_contract.errors import Unauthenticated, Unavailable, VenvdError
from venvd_http import docs
from venvd_http.asgi import Receive, Scope, Send, respond
from venvd_http.auth import Key, TokenGuard
from venvd_http.bodies import Body, too_large
from venvd_http.connection import accept
from venvd_http.heads import Head
from venvd_http.problems import unknown_path
from venvd_http.serving import serve_request
from venvd_router import probes
from venvd_router.activity import Activity
from venvd_router.forward import LARGEST_KEPT, Forwarder, Incoming
from venvd_router.loads import Loads
from venvd_router.merging import Whole, choose_answer, merge_lists
from venvd_router.probes import Probes
from venvd_router.replicas import Replicas
from venvd_router.routes import Way, find_route, read_name, read_session
from venvd_router.settings import RouterSettings
from venvd_router.upstream import Broken

_log = logging.getLogger(__name__)

OLD_CALLS = "/rpc/"
"""The path of the HTTP calls of gRPC servers. Old clients use them."""
_OLD_HEALTH = f"{OLD_CALLS}PythonService/Health"


class App:
    """Answers the probes, and passes on every other request. Errors are problem details."""

    def __init__(
        self,
        settings: RouterSettings,
        guard: TokenGuard,
        replicas: Replicas,
        forwarder: Forwarder,
        loads: Loads,
        activity: Activity,
        own: Probes,
    ) -> None:
        self._guard = guard
        self._replicas = replicas
        self._forwarder = forwarder
        self._loads = loads
        self._activity = activity
        self._own = own
        self._stall_timeout = settings.stall_timeout
        self._largest = settings.max_body
        self._has_old_calls_alone = settings.type == "rpc"
        self._open = docs.PATHS if settings.open_docs and settings.type == "http" else frozenset()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path in probes.PATHS:
            await self._own(scope, receive, send)
            return
        if self._has_old_calls_alone and not path.startswith(OLD_CALLS):
            await unknown_path(path)(scope, receive, send)
            return
        if self._has_old_calls_alone and path == _OLD_HEALTH:
            await respond(send, 200, b'{"Status":"ok"}')
            return
        await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def serve(head: Head, body: Body, send: Send) -> None:
            key = None
            if scope["path"] not in self._open:
                key = self.admit(head)
                accept(scope, key)
            request = Incoming(scope, head, body, receive, send, key)
            with self._activity.run():
                await self._route(request)

        await serve_request(scope, receive, send, self._stall_timeout, serve)

    def admit(self, head: Head) -> Key | None:
        """Check that the sender of a request may call, and return the access key that it sent, if any.

        Raises:
            Unauthenticated, Forbidden: the sender may not call.
        """
        try:
            head.caller = self._guard.admit(head.token, head.peer)
        except Unauthenticated as error:
            if head.token is None:
                how = "send it as the header `Authorization: Bearer TOKEN`"
                raise Unauthenticated(f"{error.message}: {how}") from None
            raise
        return head.caller.key

    async def _route(self, request: Incoming) -> None:
        head, scope = request.head, request.scope
        route = find_route(scope["method"], scope["path"], head.session)
        if route.way in {Way.BODY, Way.NEW}:
            await request.keep(self._largest)
            if request.kept is None:
                raise too_large(self._largest)
        elif request.kept is None:
            await request.keep(LARGEST_KEPT)
        body = request.kept or b""
        await self._forwarder.wait_for_replica(request)
        if scope["path"] in docs.PATHS:
            await self._forwarder.pass_on(request, self._replicas.list_reachable()[0])
        elif route.way is Way.NEW:
            await self._create(request, read_name(body))
        elif route.way is Way.CALL:
            await self._forwarder.pass_on(request, self._replicas.find_call_home(route.identity or ""))
        elif route.way is Way.LIST:
            await _send_whole(request, merge_lists(await self._ask_all(request)))
        elif route.way is Way.CANCEL:
            await _send_whole(request, choose_answer(await self._ask_all(request)))
        else:
            named = read_session(body) if route.way is Way.BODY else None
            await self._forwarder.pass_on(request, self._replicas.find_home(named or route.identity))

    async def _create(self, request: Incoming, name: str | None) -> None:
        if name is not None:
            await self._forwarder.pass_on(request, self._replicas.find_home(name))
            return
        refusal: VenvdError = Unavailable("no replica of this backend takes new sessions now; try again")
        for number in await self._loads.rank_open():
            try:
                status = await self._forwarder.pass_on(request, number)
            except Broken as error:
                if error.sent:
                    raise
                refusal = error
            else:
                if status == 200:
                    self._loads.note_creation(number)
                return
        raise refusal

    async def _ask_all(self, request: Incoming) -> Sequence[Whole | VenvdError]:
        return await asyncio.gather(*(self._ask(request, number) for number in self._replicas.list_reachable()))

    async def _ask(self, request: Incoming, number: int) -> Whole | VenvdError:
        try:
            return await self._forwarder.ask_whole(request, number)
        except VenvdError as error:
            return error


async def _send_whole(request: Incoming, answer: Whole) -> None:
    status, headers, body = answer
    await request.send({"type": "http.response.start", "status": status, "headers": headers})
    await request.send({"type": "http.response.body", "body": body})
