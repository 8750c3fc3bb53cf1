"""The shared broker: it serves the brokers of many backends over TCP, each by the rules in its ticket.

It only makes tunnels. It stores nothing about backends, so several shared brokers can serve one address.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections import Counter
from typing import Optional, Tuple

from venvd_egress import heads
from venvd_egress.broker import BACKLOG, HEAD_SECONDS, MOST_CONNECTIONS, split_authority
from venvd_egress.exchange import write_error
from venvd_egress.heads import Malformed, RequestHead
from venvd_egress.passage import Streams, tunnel
from venvd_egress.refusal import Refused
from venvd_egress.rules import Rules, parse_rules
from venvd_egress.tickets import read_ticket

MOST_UNACCEPTED = 64
"""Connections of one address without an accepted ticket."""
_SCHEME = "bearer "


class SharedBroker:
    """Serves on a TCP port.

    Args:
        key: the key that signs the tickets.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._read = functools.lru_cache(maxsize=1024)(self._parse)
        self._unaccepted: Counter[str] = Counter()
        self._accepted: Counter[str] = Counter()

    async def listen(self, host: Optional[str], port: int) -> asyncio.AbstractServer:
        """Listen on one address or on all, and serve each connection."""
        return await asyncio.start_server(self._serve_client, host, port, limit=heads.MOST_HEAD_BYTES, backlog=BACKLOG)

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str(writer.get_extra_info("peername")[0])
        try:
            if self._unaccepted[peer] >= MOST_UNACCEPTED:
                writer.write(write_error(503, "Service Unavailable", "too many connections from {}".format(peer)))
            else:
                await self._answer((reader, writer), peer)
            await writer.drain()
        except (OSError, EOFError, asyncio.TimeoutError):
            pass  # the client closed the connection, or was silent for too long
        finally:
            writer.close()

    async def _answer(self, client: Streams, peer: str) -> None:
        try:
            head, backend, rules = await self._admit(client[0], peer)
        except Malformed as error:
            client[1].write(write_error(400, "Bad Request", str(error)))
            return
        except ValueError as error:
            client[1].write(write_error(407, "Proxy Authentication Required", str(error)))
            return
        if self._accepted[backend] >= MOST_CONNECTIONS:
            reason = "the broker has {} connections of this backend: close some".format(MOST_CONNECTIONS)
            client[1].write(write_error(503, "Service Unavailable", reason))
            return
        self._accepted[backend] += 1
        try:
            await _connect(client, head, backend, rules)
        finally:
            _take_one(self._accepted, backend)

    async def _admit(self, reader: asyncio.StreamReader, peer: str) -> Tuple[RequestHead, str, Rules]:
        self._unaccepted[peer] += 1
        try:
            head = await asyncio.wait_for(heads.read_request(reader), HEAD_SECONDS)
            if head.method != "CONNECT":
                raise Malformed("this broker takes CONNECT host:port")
            given = [value for name, value in head.fields if name.lower() == "proxy-authorization"]
            if len(given) != 1 or not given[0].lower().startswith(_SCHEME):
                raise ValueError("a request needs a ticket, which only servers of backends have")
            backend, rules = self._read(given[0][len(_SCHEME) :])
            return head, backend, rules
        finally:
            _take_one(self._unaccepted, peer)

    def _parse(self, ticket: str) -> Tuple[str, Rules]:
        rules = read_ticket(self._key, ticket)
        return str(rules["backend"]), parse_rules(rules)


async def _connect(client: Streams, head: RequestHead, backend: str, rules: Rules) -> None:
    try:
        host, port = split_authority(head.target, None)
        rules.check(host, port)
        sock = await rules.connect(host, port)
    except Malformed as error:
        client[1].write(write_error(400, "Bad Request", str(error)))
        return
    except Refused as refusal:
        _report(backend, refusal)
        client[1].write(refusal.write())
        return
    upstream = await asyncio.open_connection(sock=sock, limit=heads.MOST_HEAD_BYTES)
    try:
        client[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await tunnel(client, upstream)
    finally:
        upstream[1].close()


def _take_one(counter: "Counter[str]", name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]


def _report(backend: str, refusal: Refused) -> None:
    sys.stderr.write(json.dumps({"backend": backend, **refusal.describe()}) + "\n")
