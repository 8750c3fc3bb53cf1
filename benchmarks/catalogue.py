"""Every row of the table."""

from __future__ import annotations

from benchmarks.clients import arrays, http_libraries, load, peers, raw, relay, rpc, sdk, sessions
from benchmarks.figure import Backend, Figure, Program, Side

UNIX_ECHO = Side(raw.unix_echo, Program("benchmarks.floors.unix_echo"))
ASGI = Program("benchmarks.floors.asgi", Backend("http"))
GRPC = Program("benchmarks.floors.rpc", Backend("rpc"))
LINES = Program("benchmarks.floors.lines")
NUMERIC = ["numpy", "pandas"]
SIZE = 100
"""MB of an array."""

CALLS = (
    Figure(
        "pipe eval, attached, SDK sync",
        "Unix-socket echo of 64 bytes",
        (UNIX_ECHO, Side(sdk.evals_attached, Backend("pipe"))),
        batch=500,
        reach=2.5,
        stretch=1.5,
    ),
    Figure(
        "pipe eval, through the server",
        "Unix-socket echo of 64 bytes",
        (UNIX_ECHO, Side(raw.pipe_line, Backend("pipe"))),
        batch=500,
        reach=4,
        stretch=3,
    ),
    Figure(
        "the same session behind a relay that passes bytes on",
        "Unix-socket echo of 64 bytes",
        (UNIX_ECHO, Side(relay.through_relay, Backend("pipe"))),
        batch=500,
        note="the least that a process in between costs",
    ),
    Figure(
        "HTTP eval",
        "bare ASGI echo",
        (Side(raw.http_post, ASGI), Side(raw.http_post, Backend("http"), {"expected": '"value":2'})),
        reach=1.8,
        stretch=1.4,
    ),
    Figure(
        "gRPC eval, unary",
        "bare grpc.aio echo",
        (
            Side(rpc.unary, GRPC, {"method": "/floor.Echo/Unary"}),
            Side(rpc.unary, Backend("rpc"), {"method": "/venvd.v1.PythonService/Evaluate", "expected": "2"}),
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
            Side(rpc.stream, Backend("rpc"), {"method": "/venvd.v1.PythonService/Session", "expected": '"value":2'}),
        ),
        batch=100,
        reach=1.4,
        stretch=1.15,
    ),
    Figure(
        "SDK over HTTP, sync",
        "http.client, same server",
        (Side(http_libraries.http_client, Backend("http")), Side(sdk.evals, Backend("http"))),
        reach=1.3,
        stretch=1,
    ),
    Figure(
        "SDK over HTTP, 16 tasks",
        "aiohttp, same server",
        (
            Side(http_libraries.aiohttp, Backend("http"), {"tasks": 16}),
            Side(sdk.evals_async, Backend("http"), {"tasks": 16}),
        ),
        batch=320,
        reach=1.3,
        stretch=1,
    ),
    Figure(
        "SDK over gRPC, sync",
        "one kept Session stream of grpc.aio, same server",
        (
            Side(rpc.stream, Backend("rpc"), {"method": "/venvd.v1.PythonService/Session", "expected": '"value":2'}),
            Side(sdk.evals, Backend("rpc")),
        ),
        batch=100,
        reach=1.5,
        stretch=1.2,
    ),
    Figure(
        "proxy.method(x), pipe, attached",
        "eval in the same session, attached",
        (Side(sdk.evals_attached, Backend("pipe")), Side(sdk.method_calls_attached, Backend("pipe"))),
        batch=500,
        reach=1.2,
        stretch=1,
        pinned=False,
        note="all cores",
    ),
    Figure(
        "proxy.method(x), HTTP",
        "eval in the same session",
        (Side(sdk.evals, Backend("http")), Side(sdk.method_calls, Backend("http"))),
        reach=1.2,
        stretch=1,
        pinned=False,
        note="all cores",
    ),
    Figure(
        "proxy.method(x), gRPC",
        "eval in the same session",
        (Side(sdk.evals, Backend("rpc")), Side(sdk.method_calls, Backend("rpc"))),
        batch=50,
        reach=1.2,
        stretch=1,
        pinned=False,
        note="all cores",
    ),
)

THROUGHPUT = (
    Figure(
        "pipe evals a second, 64 clients over 8 sessions, attached",
        "uvloop Protocol that echoes lines",
        (
            Side(load.line_clients, LINES, {"clients": 64}),
            Side(load.direct_clients, Backend("pipe"), {"clients": 64, "sessions": 8}),
        ),
        unit="/s",
        batch=20_000,
        reach=0.35,
        stretch=0.6,
        better="higher",
        pinned=False,
        rounds=12,
        note="all cores",
    ),
)


FORK = Side(sessions.fork, options={"modules": NUMERIC})
SESSIONS = (
    Figure(
        "new session to first answer, numpy and pandas preloaded",
        "os.fork of such a process, one pipe round trip",
        (FORK, Side(sessions.new_session, Backend("pipe", "numeric"), {"modules": NUMERIC})),
        unit="ms",
        batch=3,
        rounds=15,
        reach=3,
        stretch=0.3,
    ),
    Figure(
        "memory of one more idle session (Pss), numpy and pandas preloaded",
        "a fresh interpreter that imports the same",
        (
            Side(sessions.fresh_memory, options={"modules": NUMERIC}),
            Side(sessions.idle_memory, Backend("pipe", "numeric"), {"modules": NUMERIC}),
        ),
        unit="MB",
        batch=1,
        rounds=4,
        reach=1 / 8,
        stretch=1 / 20,
    ),
)

MEMCPY = Side(arrays.memcpy, options={"size": SIZE})
ARRAYS = (
    Figure(
        "100 MB array to the client, pipe",
        "one memcpy of it into touched memory",
        (MEMCPY, Side(arrays.sdk_get_array, Backend("pipe", "numeric"), {"size": SIZE})),
        unit="ms",
        batch=3,
        rounds=12,
        reach=2,
    ),
    Figure(
        "100 MB array to the client, HTTP",
        "a bare server that sends 1 MB chunks",
        (
            Side(arrays.http_bytes, ASGI, {"size": SIZE}),
            Side(arrays.sdk_get_array, Backend("http", "numeric"), {"size": SIZE}),
        ),
        unit="ms",
        batch=2,
        rounds=8,
        reach=1.5,
        stretch=1.2,
    ),
    Figure(
        "100 MB array to the client, gRPC",
        "a bare server that sends 1 MB chunks",
        (
            Side(arrays.rpc_bytes, GRPC, {"size": SIZE}),
            Side(arrays.sdk_get_array, Backend("rpc", "numeric"), {"size": SIZE}),
        ),
        unit="ms",
        batch=2,
        rounds=8,
        reach=1.5,
        stretch=1.2,
    ),
)

PEERS = (
    Figure(
        "RPyC eval, Unix socket",
        "Unix-socket echo of 64 bytes",
        (UNIX_ECHO, Side(peers.rpyc, Program("benchmarks.peers.rpyc_classic"))),
        group="peers",
    ),
    Figure(
        "Pyro5 eval, Unix socket",
        "Unix-socket echo of 64 bytes",
        (UNIX_ECHO, Side(peers.pyro, Program("benchmarks.peers.pyro"))),
        group="peers",
    ),
    Figure(
        "ipykernel, a cell of 1+1",
        "Unix-socket echo of 64 bytes",
        (UNIX_ECHO, Side(peers.kernel)),
        batch=20,
        rounds=20,
        group="peers",
    ),
    Figure(
        "ipykernel, new kernel to first answer, numpy and pandas imported",
        "os.fork of such a process, one pipe round trip",
        (FORK, Side(peers.new_kernel)),
        unit="ms",
        batch=1,
        rounds=4,
        group="peers",
    ),
)

FIGURES = (*CALLS, *THROUGHPUT, *SESSIONS, *ARRAYS, *PEERS)
