"""Every row of the table."""

from __future__ import annotations

from benchmarks.clients import (
    arrays,
    controllers,
    http_libraries,
    kubernetes,
    load,
    peers,
    raw,
    relay,
    rpc,
    sdk,
    sessions,
)
from benchmarks.figure import Backend, Client, Figure, Program, Side

UNIX_ECHO = Side(raw.unix_echo, Program("benchmarks.floors.unix_echo"))
ASGI = Program("benchmarks.floors.asgi", Backend("http"))
GRPC = Program("benchmarks.floors.rpc", Backend("rpc"))
LINES = Program("benchmarks.floors.lines")
HAND_OUT = Program("benchmarks.floors.handout")
FASTAPI = Program("benchmarks.floors.fastapi_app", Backend("http"))
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
        "pipe eval, attached, SDK sync, client and session on two cores",
        "Unix-socket echo of 64 bytes, between two cores",
        (UNIX_ECHO, Side(sdk.evals_attached, Backend("pipe"))),
        batch=500,
        reach=1.3,
        stretch=1,
        pinned=False,
        apart=True,
        note="two cores",
    ),
    Figure(
        "pipe eval, through the server",
        "Unix-socket echo of 64 bytes",
        (UNIX_ECHO, Side(raw.pipe_line, Backend("pipe"))),
        batch=500,
        reach=3.5,
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
        reach=1.2,
        stretch=1.1,
    ),
    Figure(
        "gRPC eval, Session stream",
        "bare grpc.aio bidirectional echo",
        (
            Side(rpc.stream, GRPC, {"method": "/floor.Echo/Stream"}),
            Side(rpc.stream, Backend("rpc"), {"method": "/venvd.v1.PythonService/Session", "expected": '"value":2'}),
        ),
        batch=100,
        reach=1.25,
        stretch=1.1,
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
        apart=True,
        note="two cores",
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
    Figure(
        "HTTP evals a second, 64 clients over 8 sessions",
        "bare ASGI echo",
        (
            Side(load.http_clients, ASGI, {"clients": 64}),
            Side(load.http_clients, Backend("http"), {"clients": 64, "sessions": 8}),
        ),
        unit="/s",
        batch=6_400,
        reach=0.7,
        better="higher",
        pinned=False,
        rounds=12,
        note="all cores",
    ),
    Figure(
        "gRPC evals a second, 64 clients over 8 sessions",
        "bare grpc.aio echo",
        (
            Side(load.rpc_clients, GRPC, {"clients": 64, "method": "/floor.Echo/Unary"}),
            Side(
                load.rpc_clients,
                Backend("rpc"),
                {"clients": 64, "sessions": 8, "method": "/venvd.v1.PythonService/Evaluate"},
            ),
        ),
        unit="/s",
        batch=3_200,
        reach=0.7,
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
        "hand-out of a fork made ahead, one round trip",
        (
            Side(sessions.hand_out, HAND_OUT),
            Side(sessions.new_session, Backend("pipe", "numeric"), {"modules": NUMERIC}),
        ),
        unit="ms",
        batch=3,
        rounds=15,
        reach=1,
        stretch=0.5,
        absolute=True,
    ),
    Figure(
        "100 new sessions in a row, each; numpy and pandas preloaded",
        "100 forks of such a process in a row, each",
        (
            Side(sessions.forks_in_a_row, options={"modules": NUMERIC}),
            Side(sessions.sessions_in_a_row, Backend("pipe", "numeric"), {"modules": NUMERIC}),
        ),
        unit="ms",
        batch=100,
        rounds=4,
        reach=1.3,
        pinned=False,
        note="all cores",
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
        reach=2.5,
        stretch=1.8,
        absolute=True,
    ),
    Figure(
        "memory of an idle HTTP server (Pss)",
        "the least FastAPI application on uvicorn",
        (Side(sessions.server_memory, FASTAPI), Side(sessions.server_memory, Backend("http"))),
        unit="MB",
        batch=1,
        rounds=2,
        reach=1.3,
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

DOCKER_RUN = Side(controllers.docker_run)
CONTROLLER = (
    Figure(
        "backend start to ready, Docker",
        "docker run of an empty program",
        (DOCKER_RUN, Side(controllers.start_backends, options={"count": 1})),
        unit="s",
        batch=1,
        rounds=5,
        reach=0.7,
        stretch=0.5,
        absolute=True,
        pinned=False,
    ),
    Figure(
        "12 backends started at once, Docker",
        "docker run of an empty program",
        (DOCKER_RUN, Side(controllers.start_backends, options={"count": 12})),
        unit="s",
        batch=1,
        rounds=2,
        reach=6,
        absolute=True,
        pinned=False,
    ),
    Figure(
        "one package added to numpy and pandas, Docker",
        "docker run of an empty program",
        (DOCKER_RUN, Side(controllers.add_package)),
        unit="s",
        batch=1,
        rounds=4,
        reach=4,
        stretch=3,
        absolute=True,
        pinned=False,
    ),
    Figure(
        "idle controller with three backends, Docker",
        "a process that wakes once a second",
        (Side(controllers.idle_sleeper), Side(controllers.idle_controller)),
        unit="% of a core",
        batch=1,
        rounds=2,
        reach=0.3,
        absolute=True,
        pinned=False,
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

MANY = 100
"""Backends of the rows with a fake node."""


def _compare_many(name: str, measure: Client, unit: str) -> Figure:
    """Compare a controller with many backends, whose node is fake, with one without any."""
    sides = (Side(measure, options={"count": 0}), Side(measure, options={"count": MANY}))
    floor = "the same without backends"
    return Figure(name, floor, sides, unit=unit, batch=1, rounds=1, pinned=False, note="fake node")


ON_KUBERNETES = (
    Figure(
        "pod of a backend to ready",
        "a bare pod of two containers that wait",
        (
            Side(kubernetes.bare_pods, options={"count": 1}),
            Side(kubernetes.start_backends, options={"count": 1}),
        ),
        unit="s",
        batch=1,
        rounds=5,
        pinned=False,
        note="all cores",
    ),
    Figure(
        "20 backends at once, until all are ready",
        "20 such pods at once",
        (
            Side(kubernetes.bare_pods, options={"count": 20}),
            Side(kubernetes.start_backends, options={"count": 20}),
        ),
        unit="s",
        batch=1,
        rounds=2,
        pinned=False,
        note="all cores",
    ),
    Figure(
        "HTTP eval over the Service",
        "the same on Docker, without its proxy",
        (
            Side(raw.http_post, Backend("http", engine="docker"), {"expected": '"value":2'}),
            Side(raw.http_post, Backend("http", engine="kubernetes"), {"expected": '"value":2'}),
        ),
        pinned=False,
        note="all cores",
    ),
    Figure(
        "build of a venv of numpy and a small package",
        "the same on Docker",
        (
            Side(kubernetes.build, options={"engine": "docker"}),
            Side(kubernetes.build, options={"engine": "kubernetes"}),
        ),
        unit="s",
        batch=1,
        rounds=3,
        pinned=False,
        note="all cores",
    ),
    _compare_many(f"memory of a controller with {MANY} backends (Pss)", kubernetes.memory, "MB"),
    _compare_many(
        f"requests of an idle controller with {MANY} backends to the API server", kubernetes.api_calls, "/min"
    ),
)
"""The rows of `--engine kubernetes`; the others need processes that the runner can see."""

FIGURES = (*CALLS, *THROUGHPUT, *SESSIONS, *ARRAYS, *CONTROLLER, *PEERS)
