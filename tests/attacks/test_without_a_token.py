"""Clients without a token that hold connections, memory and time of a server."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness import http2
from harness.attacks import Target, started
from harness.door import Door, Raw
from harness.stack import Stack, fetch

from venvd_contract.errors import Unauthenticated

SETTINGS = {"VENVD_ACCEPT_TIMEOUT": "10", "VENVD_GRACE": "0.5", "VENVD_MAX_WRONG_TOKENS": "2"}
MIB = 1 << 20
CROWD = 1100


@pytest.fixture(scope="module", params=["http", "pipe", "rpc"])
def hasty(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Target]:
    """A backend that waits ten seconds for a token."""
    with started(stack, request.param, **SETTINGS) as target:
        yield target


def read_memory(pid: int) -> int:
    """The resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_many(door: Door, number: int, send: bytes = b"") -> list[Raw]:
    opened = [door.open() for _ in range(number)]
    for raw in opened:
        raw.send(send)
    return opened


@pytest.mark.parametrize("begin", [b"", b"P", b'{"command":"pi'], ids=["silent", "one byte", "half a line"])
def test_a_crowd_of_connections(hasty: Target, begin: bytes) -> None:
    """A client without a token tries to keep others out with a thousand connections: others are served at once."""
    with contextlib.ExitStack() as closing:
        for door in hasty.doors():
            for raw in open_many(door, CROWD, begin):
                closing.enter_context(raw)
        hasty.serves()


@pytest.mark.long
def test_connections_that_stay(hasty: Target) -> None:
    """A client without a token tries to keep silent connections: the server closes all of them in time."""
    with contextlib.ExitStack() as closing:
        opened = [closing.enter_context(raw) for door in hasty.doors() for raw in open_many(door, 20)]
        for raw in opened:
            raw.rest()
    hasty.serves()


def test_a_head_without_end(hasty: Target) -> None:
    """A client without a token tries a request whose head or line never ends: it is refused after 64 KiB."""
    before = read_memory(hasty.parts.server)
    for door in hasty.doors():
        begin = b'{"command":"' if door.speaks == "lines" else b"GET /livez HTTP/1.1\r\nX: "
        with contextlib.ExitStack() as closing:
            for raw in [closing.enter_context(raw) for raw in open_many(door, 16, begin)]:
                for _ in range(32):
                    if not raw.send(bytes(b"x" * MIB)):
                        break
    assert read_memory(hasty.parts.server) - before < 64 * MIB
    hasty.serves()


@pytest.mark.parametrize("hasty", ["pipe"], indirect=True)
def test_attachments_before_the_token(hasty: Target) -> None:
    """A client tries to send attachments before its token is checked: the line alone is read, and refused."""
    for token in ({}, {"token": secrets.token_hex()}):
        with hasty.main.open() as raw:
            line = {"id": 1, "command": "call", "attachments": [200 * MIB], **token}
            raw.send(json.dumps(line).encode() + b"\n")
            answer = json.loads(raw.until(b"\n"))
            assert answer["code"] == "unauthenticated", answer
            assert answer["id"] == 1
            raw.rest()


@pytest.mark.parametrize("hasty", ["pipe"], indirect=True)
def test_a_long_line_with_a_token(hasty: Target) -> None:
    """A client with a token tries a first line of a megabyte: it is served, wherever the line has the token."""
    code = json.dumps({"expression": f"len({'x' * MIB!r})"})
    token = json.dumps(hasty.running.token)
    with hasty.main.open() as raw:
        raw.send(f'{{"command":"eval","token":{token},"payload":{code}}}\n'.encode())
        assert json.loads(raw.until(b"\n"))["result"] == {"value": MIB}
    with hasty.main.open() as raw:
        raw.send(f'{{"command":"eval","payload":{code},"token":{token}}}\n'.encode())
        assert "put the token before" in json.loads(raw.until(b"\n"))["error"]


def test_guesses_take_time(hasty: Target) -> None:
    """A client tries wrong tokens on one connection: each refusal is held back, and the right token works beside it."""
    assert guess_tokens(hasty, 2) >= 1
    hasty.serves()


@pytest.mark.long
def test_many_guesses_take_longer(hasty: Target) -> None:
    """A client tries one wrong token after the other: each refusal takes longer and is counted, right tokens do not."""
    before = count_refusals(hasty)
    assert guess_tokens(hasty, 5) >= 0.5 + 0.5 + 1 + 0.5 + 0.5  # a new minute may begin among them
    assert count_refusals(hasty) >= before + 5
    hasty.serves()


def guess_tokens(target: Target, number: int) -> float:
    """Send wrong tokens one after the other; return the seconds until the last was refused."""
    began = time.monotonic()
    for _ in range(number):
        with (
            target.caller() as call,
            contextlib.closing(call.with_token(secrets.token_hex())) as guess,
            pytest.raises(Unauthenticated, match="not one that this backend accepts"),
        ):
            guess("session.list", {})
    return time.monotonic() - began


def count_refusals(target: Target) -> int:
    """Return how many wrong and missing tokens the server has counted."""
    _, text = fetch(target.running.record.probe_url, "/metrics", target.running.token)
    lines = [line for line in text.decode().splitlines() if line.startswith("venvd_refused_requests_total{")]
    assert len(lines) == 8
    return int(sum(float(line.split()[-1]) for line in lines if 'code="unauthenticated"' in line))


@pytest.mark.parametrize("hasty", ["rpc"], indirect=True)
@pytest.mark.parametrize("silent", [True, False], ids=["silent", "watching"])
@pytest.mark.parametrize("path", ["/venvd.v1.PythonService/Evaluate", "/grpc.health.v1.Health/Watch"])
def test_streams_of_one_connection(hasty: Target, path: str, silent: bool) -> None:
    """A client without a token tries a thousand streams on one connection: other clients of gRPC are served."""
    with hasty.main.open() as raw:
        raw.send(http2.opening())
        for number in range(CROWD):
            stream = 2 * number + 1
            fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
            raw.send(http2.headers({**fields, "content-type": "application/grpc", "te": "trailers"}, stream))
            if not silent:
                raw.send(http2.frame(http2.DATA, bytes(5), http2.END_STREAM, stream))
        hasty.serves()


@pytest.mark.parametrize("hasty", ["rpc"], indirect=True)
def test_a_health_check_goes_on(hasty: Target) -> None:
    """A client tries to watch the health for longer than strangers may: with a token it may, without one it ends."""
    with grpc.insecure_channel(hasty.running.url.removeprefix("grpc://")) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        known = stub.Watch(
            health_pb2.HealthCheckRequest(), metadata=[("authorization", f"Bearer {hasty.running.token}")]
        )
        assert next(known).status == health_pb2.HealthCheckResponse.SERVING
        unknown = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            next(unknown)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert known.is_active()
        known.cancel()
