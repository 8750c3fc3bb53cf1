"""`/api/array`: arrays as `.npy` bodies and tables as Arrow IPC streams, both ways in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import chain
from urllib.parse import parse_qs

from venvd_contract import arrays
from venvd_contract.arrays import Header
from venvd_contract.errors import InvalidRequest, VenvdError
from venvd_contract.tables import MEDIA_TYPE
from venvd_core.backend import Backend, Outgoing, Reply, Target
from venvd_core.monitor import Receive, Scope, Send, refuse, respond
from venvd_http_backend.commands import Commands
from venvd_http_backend.incoming import ClientGone, Head
from venvd_http_backend.transfer import Body, send_pieces

PATH = "/api/array"
METHODS = frozenset({"GET", "HEAD", "PUT"})
NPY = b"application/x-npy"
ARROW = MEDIA_TYPE.encode()
_CLOSE = ((b"connection", b"close"),)


class Arrays:
    """Serves arrays of one backend."""

    def __init__(self, backend: Backend, commands: Commands, patience: float) -> None:
        self._backend = backend
        self._commands = commands
        self._patience = patience

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a `GET`, a `HEAD` or a `PUT`."""
        head = Head(chunked=True)
        body = Body(receive, self._patience)
        try:
            head = self._commands.admit(scope)
            if scope["method"] == "PUT":
                reply = await self._put(scope, head, body, receive)
                await respond(send, 200, reply.result)
            else:
                await self._get(scope, head, receive, send)
        except ClientGone:
            return
        except VenvdError as error:
            # What comes behind a refusal is read and dropped, but not without end.
            await refuse(send, error, headers=() if body.can_be_left(head) else _CLOSE)

    # ---- out

    async def _get(self, scope: Scope, head: Head, receive: Receive, send: Send) -> None:
        asked = self._backend.get_array(*_asked(scope, head))
        outgoing: Outgoing = await self._commands.until_gone(asked, receive)
        try:
            kind, start = (NPY, arrays.dump_npy(outgoing.header)) if outgoing.header.format is None else (ARROW, b"")
            length = len(start) + outgoing.header.nbytes
            headers = ((b"content-type", kind), (b"content-length", b"%d" % length))
            pieces = () if scope["method"] == "HEAD" else chain((start,), outgoing)
            await send_pieces(scope, send, headers, pieces, self._patience)
        finally:
            outgoing.close()

    # ---- in

    async def _put(self, scope: Scope, head: Head, body: Body, receive: Receive) -> Reply:
        pieces = body.pieces()
        header, start, rest = _table(scope, head) or await _begun(pieces)
        if head.length and head.length != start + header.nbytes:
            header.check_length(head.length - start)
        incoming = await self._backend.put_array(header, _target(head))
        try:
            incoming.write(rest)
            async for piece in pieces:
                incoming.write(piece)
            return await self._commands.until_gone(incoming.commit(), receive)
        finally:
            incoming.close()


def _target(head: Head) -> Target:
    return Target(head.session, head.timeout, head.call, head.lease)


def _asked(scope: Scope, head: Head) -> tuple[str, Target, str | None]:
    """Handle, session and format of a `GET`."""
    handle = _named(scope, "handleId")
    if handle is None:
        raise InvalidRequest(f'{PATH} takes one "handleId", as in {PATH}?handleId=…')
    accepts = any(name == b"accept" and ARROW in value.lower() for name, value in scope["headers"])
    return handle, _target(head), _named(scope, "format") or (arrays.ARROW if accepts else None)


def _named(scope: Scope, name: str) -> str | None:
    """What the query says of one thing.

    Raises:
        InvalidRequest: several things.
    """
    found = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get(name, [])
    if len(found) > 1:
        raise InvalidRequest(f'{PATH} takes one "{name}", not {len(found)}')
    return str(found[0]) if found else None


def _table(scope: Scope, head: Head) -> tuple[Header, int, bytes] | None:
    """The header of a table, where the body is one."""
    if not any(name == b"content-type" and value.lower().startswith(ARROW) for name, value in scope["headers"]):
        return None
    if head.chunked:
        raise InvalidRequest("a table is taken with its Content-Length, not chunked")
    return arrays.table(head.length, _named(scope, "into")), 0, b""


async def _begun(pieces: AsyncIterator[bytes]) -> tuple[Header, int, bytes]:
    """The header of a `.npy` body, the bytes that it took, and what came behind it."""
    data = b""
    async for piece in pieces:
        data += piece
        parsed = arrays.parse_npy(data)
        if parsed is not None:
            header, start = parsed
            return header, start, data[start:]
    raise InvalidRequest(f"the body ends after {len(data)} bytes, within the .npy header")
