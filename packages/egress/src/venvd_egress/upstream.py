"""The shared broker, for a broker without a network of its own."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any, Mapping, NamedTuple

from venvd_egress.destinations import write
from venvd_egress.refusal import Refused

_SECONDS = 45.0
"""Seconds in which the shared broker must resolve the name and connect."""
_LONGEST_ANSWER = 4096
_ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) ([^\r\n]*)")
_KINDS = {b"403": "address", b"502": "unreachable"}


class Upstream(NamedTuple):
    """The address of the shared broker, and a ticket for it."""

    host: str
    port: int
    ticket: str

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a connection to a destination through the shared broker.

        Raises:
            Refused: the shared broker refuses, or does not answer.
        """
        target = write(host, port)
        try:
            sock = await asyncio.wait_for(self._open(), _SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            reason = "the broker of the cluster does not answer: {}".format(error or "it took too long")
            raise Refused(host, port, "unreachable", reason) from None
        try:
            answer = await asyncio.wait_for(self._ask(sock, target), _SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            sock.close()
            reason = "the broker of the cluster has no answer for {}: {}".format(target, error or "it took too long")
            raise Refused(host, port, "unreachable", reason) from None
        except BaseException:
            sock.close()
            raise
        match = _ANSWER.match(answer)
        if match is not None and match[1] == b"200":
            return sock
        sock.close()
        if match is None:
            raise Refused(host, port, "unreachable", "the broker of the cluster does not speak HTTP/1.1")
        reason = match[2].decode("latin-1").partition(": ")[2]
        raise Refused(host, port, _KINDS.get(match[1], "unreachable"), reason)

    async def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (self.host, self.port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _ask(self, sock: socket.socket, target: str) -> bytes:
        """Ask for a tunnel; return the head of the answer, and read no byte after it."""
        loop = asyncio.get_running_loop()
        head = "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\nProxy-Authorization: Bearer {1}\r\n\r\n"
        await loop.sock_sendall(sock, head.format(target, self.ticket).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            byte = await loop.sock_recv(sock, 1)
            answer += byte
            if not byte or len(answer) > _LONGEST_ANSWER:
                raise OSError("it ended the connection" if not byte else "its answer is too long")
        return answer


def parse_upstream(given: Mapping[str, Any]) -> Upstream:
    """Parse `{"host", "port", "ticket"}`, where the host is an address."""
    return Upstream(str(given["host"]), int(given["port"]), str(given["ticket"]))
