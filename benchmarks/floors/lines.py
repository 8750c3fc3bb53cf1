"""A uvloop protocol on a Unix socket that echoes lines."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import uvloop

PATH = f"{Path.cwd()}/lines-{os.getpid()}.sock"


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._transport.write(line + b"\n")  # type: ignore[attr-defined]


async def main() -> None:
    server = await asyncio.get_running_loop().create_unix_server(Echo, PATH, backlog=1024)
    print(f"unix://{PATH}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
