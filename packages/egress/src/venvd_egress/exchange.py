"""One request and its answer between a client and a host; both connections then end."""

from __future__ import annotations

import re
from typing import Callable, Optional, Sequence

from venvd_egress import heads
from venvd_egress.heads import Body, Fields, Malformed, RequestHead, ResponseHead
from venvd_egress.passage import Silence, Streams, WatchedReader

MOST_PAGE_BYTES = 64 << 20
"""The most bytes of a page that the broker edits."""
_LONGEST_REASON = 300
_OF_CONNECTION = frozenset(
    {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "upgrade", "expect"}
)
_OF_BODY = frozenset({"content-length", "transfer-encoding"})
_WITHOUT_BODY = frozenset({204, 304})
_UNPRINTABLE = re.compile(r"[^ -~]")

Edit = Callable[[Fields, Optional[bytes]], Optional[bytes]]
"""Changes the text of headers and pages: see `venvd_egress.index.Index.localize`."""


class _Page:
    """Collects the body of a page that the broker edits."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > MOST_PAGE_BYTES:
            raise Malformed("a page of the package index is larger than {} bytes".format(MOST_PAGE_BYTES))

    async def drain(self) -> None:
        """Do nothing."""


def write_error(status: int, title: str, reason: str) -> bytes:
    """Write an answer of the broker itself. The first line has the reason, because clients show that line."""
    reason = _UNPRINTABLE.sub("?", reason)[:_LONGEST_REASON]
    body = (reason + "\n").encode()
    fields = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Connection", "close")]
    return heads.write_head("HTTP/1.1 {} {}: {}".format(status, title, reason), fields) + body


async def exchange(
    client: Streams, head: RequestHead, path: str, own: Fields, host: Streams, edit: Optional[Edit] = None
) -> None:
    """Pass a request on to the host, and the answer back to the client.

    Args:
        client: its connection, after the head of the request.
        head: the head of the request.
        path: the path of the request to the host.
        own: headers that replace those of the client.
        host: its connection, which this function closes.
        edit: changes the answer.

    Raises:
        Malformed: the client, or the host, does not send HTTP/1.1.
    """
    silence = Silence()
    try:
        body = heads.find_body(head.fields)
        kept = _keep(head.fields, [name for name, _ in own])
        given = [*own, *kept, *_frame(body), ("Connection", "close")]
        host[1].write(heads.write_head("{} {} HTTP/1.1".format(head.method, path), given))
        if "100-continue" in heads.list_values(head.fields, "expect"):
            client[1].write(b"HTTP/1.1 100 Continue\r\n\r\n")
        copies = [_answer(client, head, silence.watch(host[0]), edit)]
        if body.chunked or body.length:
            copies.append(heads.copy_body(body, silence.watch(client[0]), host[1]))
        await silence.run(*copies, first_ends=True)
    finally:
        host[1].close()


async def _answer(client: Streams, head: RequestHead, host: WatchedReader, edit: Optional[Edit]) -> None:
    answer = await _read_answer(host)
    body = heads.find_body(answer.fields)
    if head.method == "HEAD" or answer.status in _WITHOUT_BODY:
        body = Body(length=0)
    kept = _keep(answer.fields, [])
    page: Optional[bytes] = None
    if edit is not None:
        page = edit(kept, None)
        if page is not None and head.method == "GET":
            collected = _Page()
            await heads.copy_body(body, host, collected, chunked=False)
            page = edit(kept, bytes(collected.data))
    chunked = head.minor > 0
    if page is not None:
        framing: Fields = [("Content-Length", str(len(page)))]
    elif head.method == "HEAD":
        framing = [field for field in answer.fields if field[0].lower() == "content-length"]
    else:
        framing = _frame(body) if chunked or not body.chunked else []
    first = "HTTP/1.1 {} {}".format(answer.status, answer.reason)
    client[1].write(heads.write_head(first, [*kept, *framing, ("Connection", "close")]))
    if page is not None:
        client[1].write(page)
    else:
        await heads.copy_body(body, host, client[1], chunked=chunked)
    await client[1].drain()


async def _read_answer(host: WatchedReader) -> ResponseHead:
    while True:
        answer = await heads.read_response(host)
        if answer.status >= 200:
            return answer
        if answer.status == 101:
            raise Malformed("the host speaks another protocol: use CONNECT host:port")


def _keep(fields: Fields, replaced: Sequence[str]) -> Fields:
    """Return the headers to pass on."""
    dropped = {name.lower() for name in replaced} | _OF_CONNECTION | _OF_BODY
    dropped |= set(heads.list_values(fields, "connection"))
    return [field for field in fields if field[0].lower() not in dropped]


def _frame(body: Body) -> Fields:
    if body.chunked:
        return [("Transfer-Encoding", "chunked")]
    return [] if body.length is None else [("Content-Length", str(body.length))]
