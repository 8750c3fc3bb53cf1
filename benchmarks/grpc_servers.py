"""Compare grpc.aio with grpc's threaded server for unary calls, in front of a core that runs on an asyncio loop.

A stand-in plays the core: one stream to another process that echoes lines, one line at a time. The floors are servers
whose handler answers itself. Each server and the client are processes of their own. The servers take turns, and the
program prints the best round of each, because other work on the machine only adds time.

    python benchmarks/grpc_servers.py [--rounds 5] [--calls 2000] [--window 32]
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import multiprocessing
import socket
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import uvloop

from venvd_proto.v1 import python_service_pb2 as pb

METHOD = "/venvd.v1.PythonService/Evaluate"
REPLY = pb.EvaluateResponse(value_json="2").SerializeToString()
OPTIONS = [("grpc.so_reuseport", 0)]


def echo(connection: socket.socket) -> None:
    """The session: echoes each line."""
    while data := connection.recv(65536):
        connection.sendall(data)


class Core(asyncio.Protocol):
    """Returns futures on the loop and has one line at a time on the stream."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[bytes, asyncio.Future[bytes]]] = deque()
        self._running: asyncio.Future[bytes] | None = None

    async def start(self) -> None:
        ours, theirs = socket.socketpair()
        multiprocessing.get_context("fork").Process(target=echo, args=(theirs,), daemon=True).start()
        theirs.close()
        await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def call(self, line: bytes) -> asyncio.Future[bytes]:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((line, future))
        if self._running is None:
            self._send_next()
        return future

    def _send_next(self) -> None:
        line, self._running = self._waiting.popleft()
        self._transport.write(line)

    def data_received(self, data: bytes) -> None:
        running, self._running = self._running, None
        if self._waiting:
            self._send_next()
        if running is not None and not running.done():
            running.set_result(data)


def encode_line(request: pb.EvaluateRequest) -> bytes:
    return b'{"command":"eval","payload":{"expression":"' + request.expression.encode() + b'"}}\n'


def create_handlers(serve: Callable[..., Any]) -> grpc.GenericRpcHandler:
    handler = grpc.unary_unary_rpc_method_handler(serve, pb.EvaluateRequest.FromString)
    return grpc.method_handlers_generic_handler("venvd.v1.PythonService", {"Evaluate": handler})


async def serve_aio(ready: Any, *, alone: bool = False) -> None:
    core = Core()
    await core.start()

    async def evaluate(request: pb.EvaluateRequest, _context: Any) -> bytes:
        if not alone:
            await core.call(encode_line(request))
        return REPLY

    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((create_handlers(evaluate),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready.send(port)
    await server.wait_for_termination()


async def serve_threads(ready: Any, *, alone: bool = False) -> None:
    core = Core()
    await core.start()
    loop = asyncio.get_running_loop()

    def start(line: bytes, done: concurrent.futures.Future[bytes]) -> None:
        core.call(line).add_done_callback(lambda future: done.set_result(future.result()))

    def evaluate(request: pb.EvaluateRequest, _context: Any) -> bytes:
        if alone:
            return REPLY
        done: concurrent.futures.Future[bytes] = concurrent.futures.Future()
        loop.call_soon_threadsafe(start, encode_line(request), done)
        done.result()
        return REPLY

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(32), options=OPTIONS)
    server.add_generic_rpc_handlers((create_handlers(evaluate),))
    ready.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    await asyncio.Event().wait()


SERVERS: dict[str, Callable[[Any], None]] = {
    "grpc.aio on asyncio": lambda ready: asyncio.run(serve_aio(ready)),
    "grpc.aio on uvloop": lambda ready: uvloop.run(serve_aio(ready)),
    "threads, core on asyncio": lambda ready: asyncio.run(serve_threads(ready)),
    "threads, core on uvloop": lambda ready: uvloop.run(serve_threads(ready)),
    "floor: grpc.aio on uvloop": lambda ready: uvloop.run(serve_aio(ready, alone=True)),
    "floor: threads": lambda ready: uvloop.run(serve_threads(ready, alone=True)),
}


def measure_latency(call: Any, calls: int) -> float:
    """The median time of a call in microseconds."""
    request, times = pb.EvaluateRequest(expression="1+1"), []
    for _ in range(calls):
        start = time.perf_counter()
        call(request)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def measure_rate(call: Any, calls: int, window: int) -> float:
    """Calls per second with `window` of them in flight."""
    request, free = pb.EvaluateRequest(expression="1+1"), threading.Semaphore(window)
    start = time.perf_counter()
    for _ in range(calls):
        free.acquire()
        call.future(request).add_done_callback(lambda _: free.release())
    for _ in range(window):
        free.acquire()
    return calls / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--window", type=int, default=32)
    options = parser.parse_args()
    context = multiprocessing.get_context("fork")
    running, results = [], {name: ([], []) for name in SERVERS}
    ports = {}
    for name, serve in SERVERS.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs,))
        process.start()
        running.append(process)
        ports[name] = ours.recv()
    calls = {
        name: grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary(
            METHOD, pb.EvaluateRequest.SerializeToString, pb.EvaluateResponse.FromString
        )
        for name, port in ports.items()
    }
    for _ in range(options.rounds):
        for name, call in calls.items():
            measure_latency(call, 100)
            results[name][0].append(measure_latency(call, options.calls))
            results[name][1].append(measure_rate(call, options.calls, options.window))
    sys.stdout.write(f"{'server':28}{'µs per call':>12}{f'calls/s, {options.window} in flight':>26}\n")
    for name, (latency, rate) in results.items():
        sys.stdout.write(f"{name:28}{min(latency):>12.0f}{max(rate):>26.0f}\n")
    for process in running:
        process.terminate()
        process.join()


if __name__ == "__main__":
    main()
