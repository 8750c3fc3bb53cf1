"""`/api/array`: receives and sends arrays as `.npy` bodies and tables as Arrow IPC streams, in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import chain
from typing import Any
from urllib.parse import parse_qs

from venvd_contract import arrays
from venvd_contract.arrays import Header
from venvd_contract.errors import InvalidRequest
from venvd_contract.suggestions import check_names
from venvd_contract.tables import MEDIA_TYPE
from venvd_core.backend import Outgoing, Target
from venvd_http.asgi import respond
from venvd_http.heads import Head
from venvd_http_backend.commands import Commands
from venvd_http_backend.request import HttpRequest
from venvd_http_backend.streaming import send_pieces

PATH = "/api/array"
NPY = b"application/x-npy"
ARROW = MEDIA_TYPE.encode()


class Arrays:
    """Serves arrays of one backend."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._backend = commands.backend

    async def serve_get(self, request: HttpRequest, _payload: dict[str, Any]) -> None:
        """Answer a `GET` or a `HEAD`."""
        handle, form = _read_query(request, "handleId", "format")
        if handle is None:
            raise InvalidRequest(f'{PATH} takes one "handleId", as in {PATH}?handleId=…')
        form = form or (arrays.ARROW if ARROW in request.header(b"accept").lower() else None)
        fetching = self._backend.get_array(handle, _target(request.head), form)
        outgoing: Outgoing = await self._commands.wait(fetching, request.receive)
        try:
            kind, start = (NPY, arrays.dump_npy(outgoing.header)) if outgoing.header.format is None else (ARROW, b"")
            length = len(start) + outgoing.header.nbytes
            headers = ((b"content-type", kind), (b"content-length", b"%d" % length))
            pieces = () if request.scope["method"] == "HEAD" else chain((start,), outgoing)
            await send_pieces(request, headers, pieces, self._commands.stall_timeout)
        finally:
            outgoing.close()

    async def serve_put(self, request: HttpRequest, _payload: dict[str, Any]) -> None:
        """Answer a `PUT`."""
        head, pieces = request.head, request.body.pieces()
        (into,) = _read_query(request, "into")
        header, start, rest = _read_table_header(request, into) or await _read_npy_header(pieces)
        if head.length and head.length != start + header.nbytes:
            header.check_length(head.length - start)
        incoming = await self._backend.put_array(header, _target(head))
        try:
            incoming.write(rest)
            async for piece in pieces:
                incoming.write(piece)
            reply = await self._commands.wait(incoming.commit(), request.receive)
        finally:
            incoming.close()
        await respond(request.send, 200, reply.result)


def _target(head: Head) -> Target:
    return Target(head.session, head.timeout, head.call, head.lease, caller=head.caller)


def _read_query(request: HttpRequest, *names: str) -> Iterator[str | None]:
    """Yield the value of each name in the query, or None if it is absent.

    Raises:
        InvalidRequest: it has other names, or one several times.
    """
    query = parse_qs(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    check_names(query, names, f"{PATH}: the field of the query")
    for name in names:
        values = query.get(name, [])
        if len(values) > 1:
            raise InvalidRequest(f'{PATH} takes one "{name}", not {len(values)}')
        yield values[0] if values else None


def _read_table_header(request: HttpRequest, into: str | None) -> tuple[Header, int, bytes] | None:
    """Return the header of a table, or None if the body is not a table."""
    if not request.header(b"content-type").lower().startswith(ARROW):
        return None
    if request.head.chunked:
        raise InvalidRequest("a table needs a Content-Length, and cannot be chunked")
    return arrays.table(request.head.length, into), 0, b""


async def _read_npy_header(pieces: AsyncIterator[bytes]) -> tuple[Header, int, bytes]:
    """Read the header of a `.npy` body; return it, its size in bytes, and the bytes that came with it."""
    data = b""
    async for piece in pieces:
        data += piece
        parsed = arrays.parse_npy(data)
        if parsed is not None:
            header, start = parsed
            return header, start, data[start:]
    raise InvalidRequest(f"the body ends after {len(data)} bytes, within the .npy header")
