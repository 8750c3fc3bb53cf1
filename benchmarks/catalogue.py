"""Every row of the table."""

from __future__ import annotations

from benchmarks.clients import lean, other, rpc, sdk
from benchmarks.figure import Backend, Figure, Program, Side

UNIX_ECHO = Side(lean.unix_echo, Program("benchmarks.floors.unix_echo"))
ASGI = Program("benchmarks.floors.asgi")
GRPC = Program("benchmarks.floors.rpc")

CALLS = (
    Figure(
        "pipe eval, through the server",
        "Unix-socket echo of 64 bytes",
        (UNIX_ECHO, Side(lean.pipe_line, Backend("pipe"))),
        batch=500,
        reach=4,
        stretch=3,
    ),
    Figure(
        "HTTP eval",
        "bare ASGI echo",
        (Side(lean.http_post, ASGI), Side(lean.http_post, Backend("http"), {"wanted": '"value":2'})),
        reach=1.8,
        stretch=1.4,
    ),
    Figure(
        "gRPC eval, unary",
        "bare grpc.aio echo",
        (
            Side(rpc.unary, GRPC, {"method": "/floor.Echo/Unary"}),
            Side(rpc.unary, Backend("rpc"), {"method": "/venvd.v1.PythonService/Evaluate", "wanted": "2"}),
        ),
        batch=50,
        reach=1.4,
        stretch=1.15,
    ),
    Figure(
        "gRPC eval, Session stream",
        "bare grpc.aio bidirectional echo",
        (
            Side(rpc.stream, GRPC, {"method": "/floor.Echo/Stream"}),
            Side(rpc.stream, Backend("rpc"), {"method": "/venvd.v1.PythonService/Session", "wanted": '"value":2'}),
        ),
        batch=100,
        reach=1.4,
        stretch=1.15,
    ),
    Figure(
        "SDK over HTTP, sync",
        "http.client, same server",
        (Side(other.http_client, Backend("http")), Side(sdk.evals, Backend("http"))),
        reach=1.3,
        stretch=1,
    ),
    Figure(
        "SDK over HTTP, 16 tasks",
        "aiohttp, same server",
        (Side(other.aiohttp, Backend("http"), {"tasks": 16}), Side(sdk.evals_async, Backend("http"), {"tasks": 16})),
        batch=320,
        reach=1.3,
        stretch=1,
    ),
)

FIGURES = CALLS
