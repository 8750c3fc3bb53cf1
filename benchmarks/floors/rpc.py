"""Bare grpc.aio on uvloop: a unary echo, a bidirectional echo and a stream of 1 MB chunks; bytes, not messages.

Each chunk has memory of its own, like the parts of an array.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

SERVICE = "floor.Echo"
MB = 1_000_000
CHUNKS: list[bytes] = []
OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)]


async def unary(request: bytes, _context: Any) -> bytes:
    return request


async def stream(_requests: Any, context: Any) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        await context.write(message)


async def chunks(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    size = int(request)
    CHUNKS.extend(b"\x01" * MB for _ in range(size - len(CHUNKS)))
    for chunk in CHUNKS[:size]:
        yield chunk


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Stream": grpc.stream_stream_rpc_method_handler(stream),
    "Chunks": grpc.unary_stream_rpc_method_handler(chunks),
}


async def main() -> None:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, HANDLERS),))
    host, port_number = sys.argv[1:] or ("127.0.0.1", "0")
    port = server.add_insecure_port(f"{host}:{port_number}")
    await server.start()
    print(f"grpc://{host}:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
