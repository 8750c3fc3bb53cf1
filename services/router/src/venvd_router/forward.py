"""One HTTP request on its way to a replica, and the answer on its way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from venvd_contract.errors import Moved, Unavailable, VenvdError
from venvd_http.asgi import Receive, Scope, Send
from venvd_http.auth import Key
from venvd_http.bodies import Body
from venvd_http.clients import ClientGone, DisconnectWatch, wait_for_disconnect
from venvd_http.heads import Head
from venvd_router.activity import Activity
from venvd_router.replicas import Address, Replicas
from venvd_router.upstream import Broken, Upstream, UpstreamConnection, keep_headers, render_head

LARGEST_KEPT = 1 << 20
"""The most bytes of a body that the router keeps, so that it can send the request to another replica too."""
MOST_MOVES = 4


class _Problem(msgspec.Struct):
    code: str = ""
    url: str = ""


_problem = msgspec.json.Decoder(_Problem)


class Incoming:
    """A request of a client that may call.

    Attributes:
        kept: the whole body; None while a part of it may be missing.
    """

    def __init__(self, scope: Scope, head: Head, body: Body, receive: Receive, send: Send, key: Key | None) -> None:
        self.scope = scope
        self.head = head
        self.body = body
        self.receive = receive
        self.send = send
        self.key = key
        self.kept: bytes | None = None if head.has_body else b""
        self._begun: list[bytes] = []
        self._pieces = cast("AsyncGenerator[bytes, None]", body.pieces())
        self._is_spent = False
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        self._start = render_head(scope["method"], target, scope["headers"], head.peer)

    async def keep(self, most: int) -> None:
        """Read the whole body if it has at most `most` bytes, else only its beginning.

        Raises:
            InvalidRequest, ClientGone: as `Body.pieces`.
        """
        if self.kept is not None or self.head.length > most:
            return
        async for piece in self._pieces:
            self._begun.append(piece)
            if self.body.size > most:
                return
        self.kept = b"".join(self._begun)

    def render(self, address: Address) -> bytes:
        """Render the request for a replica, with the part of its body that has come.

        Raises:
            Unavailable: a part of the body was sent to another replica, and is not kept.
        """
        start = b"%bhost: %b\r\n" % (self._start, address.authority.encode())
        if self.kept is not None:
            if not self.kept and self.scope["method"] in {"GET", "HEAD", "DELETE"}:
                return start + b"\r\n"
            return b"%bcontent-length: %d\r\n\r\n%b" % (start, len(self.kept), self.kept)
        if self._is_spent:
            raise Unavailable(
                f"the session has moved to another replica, and a body of more than {LARGEST_KEPT} bytes is not kept: "
                "send the request again"
            )
        self._is_spent = True
        begun = b"".join(self._begun)
        self._begun.clear()
        if not self.head.chunked:
            return b"%bcontent-length: %d\r\n\r\n%b" % (start, self.head.length, begun)
        return b"%btransfer-encoding: chunked\r\n\r\n%b" % (start, _chunk(begun) if begun else b"")

    async def send_rest(self, connection: UpstreamConnection) -> None:
        """Send the rest of the body.

        Raises:
            InvalidRequest, ClientGone: as `Body.pieces`.
        """
        chunked = self.head.chunked
        async for piece in self._pieces:
            await connection.write(_chunk(piece) if chunked else piece)
        if chunked:
            await connection.write(b"0\r\n\r\n")


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


@dataclass(slots=True)
class Answer:
    """The head of a replica's answer.

    Attributes:
        connection: the connection with the rest of the answer.
        body: the whole body, if it was read already.
    """

    connection: UpstreamConnection
    body: bytes | None = None


class Forwarder:
    """Passes requests on to replicas, and follows a session that has moved."""

    def __init__(self, replicas: Replicas, upstream: Upstream, activity: Activity) -> None:
        self._replicas = replicas
        self._upstream = upstream
        self._activity = activity
        self._watch = DisconnectWatch()

    async def wait_for_replica(self, request: Incoming) -> None:
        """Wait until a replica has an address.

        Raises:
            Unavailable: no replica got an address in time, or too many requests wait.
            ClientGone: the client went away.
        """
        if self._replicas.list_reachable():
            return
        waiting = asyncio.ensure_future(self._replicas.wait_for_any())
        await (waiting if request.kept is None else self._watch.wait(waiting, request.receive))

    async def pass_on(self, request: Incoming, number: int) -> int:
        """Let a replica answer a request, or the one to which that replica sends it. Return the status.

        Raises:
            VenvdError: no replica could answer.
            ClientGone: the client went away, so the request ended.
        """
        answer = await self.ask(request, number)
        status = answer.connection.status
        try:
            await self._relay(request, answer)
        except BaseException:
            self._drop(answer.connection, request.key)
            raise
        return status

    async def ask_whole(self, request: Incoming, number: int) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Ask a replica, and return its whole answer: status, headers and body. Raises the errors of `pass_on`."""
        answer = await self.ask(request, number)
        connection = answer.connection
        try:
            body = await connection.read_all() if answer.body is None else answer.body
        except BaseException:
            self._drop(connection, request.key)
            raise
        response = connection.status, keep_headers(connection.headers), body
        self._upstream.release(connection, request.key)
        return response

    async def ask(self, request: Incoming, number: int) -> Answer:
        """Send a request, and return the first answer that names no other replica. Raises the errors of `pass_on`."""
        for _ in range(MOST_MOVES + 1):
            try:
                connection = await self._send(request, self._replicas.get_address(number))
            except VenvdError as error:
                self._activity.count(number, error.code)
                raise
            self._activity.count(number, str(connection.status))
            if connection.status != Moved.http_status:
                return Answer(connection)
            answer = await self._read_refusal(request, connection)
            url = read_url(answer.body or b"")
            if url is None:
                return answer
            self._upstream.release(connection, request.key)
            target = self._replicas.find_number(url)
            if target is None:
                raise Unavailable(f"replica {number} says that the session moved to {url[:200]}, which is no replica")
            number = target
            self._activity.moves += 1
        raise Unavailable("the replicas of this backend send each other the session; try again")

    async def _read_refusal(self, request: Incoming, connection: UpstreamConnection) -> Answer:
        try:
            return Answer(connection, await connection.read_all())
        except BaseException:
            self._drop(connection, request.key)
            raise

    async def _send(self, request: Incoming, address: Address) -> UpstreamConnection:
        """Send a request, and wait for the head of the answer."""
        data = request.render(address)
        connection = await self._upstream.acquire(address, request.key)
        try:
            head = connection.begin(data, without_body=request.scope["method"] == "HEAD")
            if request.kept is None:
                await self._stream(request, connection, head)
            await self._watch.wait(head, request.receive)
        except BaseException:
            self._drop(connection, request.key)
            raise
        return connection

    @staticmethod
    async def _stream(request: Incoming, connection: UpstreamConnection, head: asyncio.Future[None]) -> None:
        """Send the rest of the body, but only until the replica answers."""
        sending = asyncio.ensure_future(request.send_rest(connection))
        waiting: set[asyncio.Future[Any]] = {sending, head}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            else:
                connection.spoil()
        finally:
            sending.cancel()

    async def _relay(self, request: Incoming, answer: Answer) -> None:
        connection, send = answer.connection, request.send
        headers = [*keep_headers(connection.headers), *request.body.choose_closing(request.head)]
        start = {"type": "http.response.start", "status": connection.status, "headers": headers}
        if connection.complete:
            body = connection.take() if answer.body is None else answer.body
            self._upstream.release(connection, request.key)
            await send(start)
            await send({"type": "http.response.body", "body": body})
            return
        gone = asyncio.ensure_future(wait_for_disconnect(request.receive))

        def end(_: asyncio.Future[None]) -> None:
            connection.abort()

        gone.add_done_callback(end)
        try:
            await send(start)
            while part := await connection.read():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except Broken:
            if gone.done():
                raise ClientGone from None
            raise
        finally:
            gone.remove_done_callback(end)
            gone.cancel()
        self._upstream.release(connection, request.key)
        await send({"type": "http.response.body", "body": b""})

    def _drop(self, connection: UpstreamConnection, key: Key | None) -> None:
        connection.abort()
        if connection.in_use:
            self._upstream.release(connection, key)


def read_url(body: bytes) -> str | None:
    """Read the address to which a refusal sends the client. Return None if it is another refusal."""
    try:
        problem = _problem.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return problem.url if problem.code == Moved.code else None
