"""Commands over bare ASGI: headers and body in, the session's own JSON out, nothing parsed on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from venvd_contract.errors import VenvdError
from venvd_core import logs
from venvd_core.backend import Backend, Call, Reply, Request
from venvd_core.monitor import Receive, Scope, Send, refuse, respond
from venvd_core.wire import encode
from venvd_http_backend.events import serve_events
from venvd_http_backend.incoming import ClientGone, Head, Unread, check_origin, read_body
from venvd_http_backend.watch import Watch

_CLOSE = ((b"connection", b"close"),)

T = TypeVar("T")


class Commands:
    """Serves calls of one backend."""

    def __init__(self, backend: Backend, stall_timeout: float) -> None:
        self._backend = backend
        self._stall_timeout = stall_timeout
        self._open = not backend.settings.token_sha256
        self._limit = backend.settings.max_body
        self._watch = Watch() if backend.settings.cancel_on_disconnect else None

    @property
    def backend(self) -> Backend:
        return self._backend

    @property
    def stall_timeout(self) -> float:
        """Seconds for which a client in the middle of something may do nothing."""
        return self._stall_timeout

    @property
    def cancels(self) -> bool:
        """Whether a client that goes away cancels its call."""
        return self._watch is not None

    def check(self, head: Head) -> None:
        """Whether the sender of a request may call.

        Raises:
            Unauthenticated, Forbidden.
        """
        self._backend.authorise(head.token)
        if self._open:
            check_origin(head)

    def admit(self, scope: Scope) -> Head:
        """The request's head, if its sender may call.

        Raises:
            Unauthenticated, Forbidden, InvalidRequest.
        """
        head = Head.of(scope["headers"])
        self.check(head)
        return head

    def call(self, command: str, head: Head, body: bytes, told: Callable[[Call], None]) -> Call:
        """Begin a call; `told` as in `Call`."""
        call = Call(_request(command, head, body), told)
        self._backend.begin(call)
        return call

    async def serve(
        self,
        command: str,
        scope: Scope,
        receive: Receive,
        send: Send,
        path: Mapping[str, Any] | None = None,
        session: str | None = None,
    ) -> None:
        """Answer one request; `path` holds what its path and query named, where that is the payload,
        and `session` the session, where its path did.
        """
        try:
            head = self.admit(scope)
            head.session = session or head.session
            body = await read_body(head, receive, self._limit, self._stall_timeout)
            if path or session:
                body = encode(path)
            request = _request(command, head, body)
            if head.wants_events and command == "exec":
                await serve_events(self._backend, request, receive, send, self._watch)
                return
            reply = await self._reply(request, receive)
        except ClientGone:
            return
        except Unread as error:
            logs.call(command, error.code, error=error)
            await refuse(send, error, headers=_CLOSE)
        except VenvdError as error:
            await refuse(send, error)
        else:
            await respond(send, 200, reply.result)

    async def until_gone(self, work: Coroutine[Any, Any, T], receive: Receive) -> T:
        """What `work` comes to; a client that goes away meanwhile cancels it.

        Raises:
            ClientGone: it did.
        """
        return await self._waited(asyncio.ensure_future(work), receive)

    async def _reply(self, request: Request, receive: Receive) -> Reply:
        return await self._waited(self._backend.call(request).future(), receive)

    async def _waited(self, future: asyncio.Future[T], receive: Receive) -> T:
        if self._watch is None:
            return await future
        self._watch.note(future, receive)
        try:
            return await future
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if future.cancelled() and task is not None and not task.cancelling():
                raise ClientGone from None
            raise
        finally:
            self._watch.forget(future)


def _request(command: str, head: Head, body: bytes) -> Request:
    return Request(command, body or b"{}", head.session, head.timeout, head.values, name=head.call, lease=head.lease)
