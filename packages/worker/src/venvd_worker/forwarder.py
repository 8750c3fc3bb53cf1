"""The forwarder: passes connections from a port of loopback to the Unix socket of a broker (`venvd_egress`)."""

from __future__ import annotations

import asyncio

MOST_CONNECTIONS = 256
_CHUNK_BYTES = 1 << 17
_ANSWER = "HTTP/1.1 503 Service Unavailable: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_BUSY = _ANSWER.format("there are {} connections: close some".format(MOST_CONNECTIONS)).encode()
_AWAY = _ANSWER.format("the egress broker is away").encode()


class Forwarder:
    """Passes bytes; it reads none of them."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._path = path
        self._connections = 0

    async def serve(self) -> None:
        """Serve for ever."""
        server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        async with server:
            await server.serve_forever()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= MOST_CONNECTIONS:
                await self._pass(reader, writer)
            else:
                writer.write(_BUSY)
        except OSError:
            pass  # the client sees that its connection broke
        finally:
            self._connections -= 1
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inward, outward = await asyncio.open_unix_connection(self._path)
        except OSError:
            writer.write(_AWAY)
            return
        try:
            tasks = [asyncio.ensure_future(_copy(reader, outward)), asyncio.ensure_future(_copy(inward, writer))]
            _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in pending:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            outward.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        data = await reader.read(_CHUNK_BYTES)
        if not data:
            break
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def main(port: int, path: str) -> None:
    """Run the forwarder until a signal ends it."""
    asyncio.run(Forwarder(port, path).serve())
