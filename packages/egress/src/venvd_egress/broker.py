"""The broker: an HTTP proxy on a Unix socket that checks each destination of its clients.

It takes `CONNECT host:port` and `http://host/path`, one request on each connection. It resolves each name itself and
connects to the address that it has checked, so a later answer of a name server changes nothing. It refuses with 403 and
the reason in the first line, because clients show that line.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, Awaitable, Callable, Optional, Tuple
from urllib.parse import urlsplit

from venvd_egress import heads
from venvd_egress.destinations import parse_host, split_port, write
from venvd_egress.exchange import exchange, write_error
from venvd_egress.heads import Fields, Malformed, RequestHead
from venvd_egress.index import Index
from venvd_egress.passage import Streams, tunnel
from venvd_egress.refusal import Refused
from venvd_egress.rules import Rules

MOST_CONNECTIONS = 256
HEAD_SECONDS = 30.0
BACKLOG = 1024
"""Connections that wait for the broker: more than it serves, so that surplus clients get an error."""

OnRefused = Callable[[Refused], None]


class Broker:
    """Serves clients on a listening socket.

    Args:
        rules: the destinations that clients may reach.
        index: the package index for requests without a host.
        tls: the context for HTTPS requests of the broker.
        on_refused: called with each refusal.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        index: Optional[Index] = None,
        tls: Optional[ssl.SSLContext] = None,
        on_refused: Optional[OnRefused] = None,
    ) -> None:
        self._rules = rules
        self._index = index
        self._tls = tls
        self._on_refused = on_refused
        self._connections = 0

    def replace_rules(self, rules: Rules, tls: ssl.SSLContext) -> None:
        """Use other rules and authorities for new requests."""
        self._rules, self._tls = rules, tls

    async def serve(self, listener: socket.socket) -> None:
        """Serve until cancelled."""
        server = await asyncio.start_unix_server(
            self._serve_client, sock=listener, limit=heads.MOST_HEAD_BYTES, backlog=BACKLOG
        )
        async with server:
            await server.serve_forever()

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections > MOST_CONNECTIONS:
                reason = "the broker has {} connections: close some".format(MOST_CONNECTIONS)
                writer.write(write_error(503, "Service Unavailable", reason))
            else:
                await self._answer((reader, writer))
            await writer.drain()
        except (OSError, EOFError, asyncio.TimeoutError):
            pass  # the client closed the connection, or was silent for too long
        finally:
            self._connections -= 1
            writer.close()

    async def _answer(self, client: Streams) -> None:
        try:
            head = await asyncio.wait_for(heads.read_request(client[0]), HEAD_SECONDS)
            if head.method == "CONNECT":
                await self._connect(client, head)
            elif head.target.startswith("/") and self._index is not None:
                await self._ask_index(client, head, self._index)
            else:
                await self._ask_host(client, head)
        except Refused as refusal:
            if self._on_refused is not None:
                self._on_refused(refusal)
            client[1].write(refusal.write())
        except Malformed as error:
            client[1].write(write_error(400, "Bad Request", str(error)))
        except ssl.SSLError as error:
            client[1].write(write_error(502, "Bad Gateway", "HTTPS to the host failed: {}".format(error)))

    async def _connect(self, client: Streams, head: RequestHead) -> None:
        host, port = split_authority(head.target, None)
        self._rules.check(host, port)
        upstream = await self._open(host, port, None)
        try:
            client[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await tunnel(client, upstream)
        finally:
            upstream[1].close()

    async def _ask_host(self, client: Streams, head: RequestHead) -> None:
        try:
            parts = urlsplit(head.target)
        except ValueError:
            raise Malformed("the address of the request is not valid") from None
        if parts.scheme not in {"http", "https"} or "@" in parts.netloc:
            raise Malformed("a request takes http://host/path, or CONNECT host:port")
        secure = parts.scheme == "https"
        host, port = split_authority(parts.netloc, 443 if secure else 80)
        secure_port, added = self._rules.find_headers(host, port)
        if secure_port is not None:
            secure, port = True, secure_port
            if head.method.upper() == "TRACE":  # the host would return the header to the client
                raise Malformed("the broker adds a header to this request, and TRACE would show it")
        self._rules.check(host, port)
        tls = self._tls if secure else None
        if secure and tls is None:
            raise Malformed("https:// takes CONNECT host:port")
        usual = 443 if secure else 80
        own: Fields = [("Host", write(host, port) if port != usual else write(host, port).rpartition(":")[0]), *added]
        path = "{}{}".format(parts.path or "/", "?" + parts.query if parts.query else "")
        await exchange(client, head, path, own, await self._open(host, port, tls))

    async def _ask_index(self, client: Streams, head: RequestHead, index: Index) -> None:
        if head.method not in {"GET", "HEAD"}:  # the credentials may allow more than reading
            client[1].write(write_error(501, "Not Implemented", "clients may only read the package index: GET or HEAD"))
            return
        upstream = await self._open(index.host, index.port, index.tls)
        await exchange(client, head, head.target, index.headers, upstream, index.localize)

    async def _open(self, host: str, port: int, tls: Optional[ssl.SSLContext]) -> Streams:
        sock = await self._rules.connect(host, port)
        names: Any = {} if tls is None else {"ssl": tls, "server_hostname": host}
        opening: Awaitable[Tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.open_connection(
            sock=sock, limit=heads.MOST_HEAD_BYTES, **names
        )
        try:
            return await asyncio.wait_for(opening, HEAD_SECONDS)
        except BaseException:
            sock.close()
            raise


def split_authority(authority: str, usual: Optional[int]) -> Tuple[str, int]:
    """Split a host and a port; the port may be absent if there is a `usual` one."""
    try:
        text, port = split_port(authority)
        host = parse_host(text)
    except ValueError as error:
        raise Malformed(str(error)) from None
    if not port and usual is None:
        raise Malformed("CONNECT takes host:port")
    return host, port or usual or 0
