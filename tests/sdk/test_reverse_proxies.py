"""The SDK through the reverse proxies of docs/exposing.md: nothing is held up, cut off or too large for them."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest
from harness import proxies
from harness.certificates import make_authority, make_certificate
from harness.stack import Running, SharedStacks
from harness.waiting import TIMEOUT, wait_until

import venvd
from venvd_proto.v1 import python_service_pb2 as messages
from venvd_proto.v1.python_service_pb2_grpc import PythonServiceStub

pytestmark = [pytest.mark.slow, pytest.mark.needs("openssl")]

KINDS = {"http": ("https", "api.example.com"), "rpc": ("grpcs", "rpc.example.com")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    make_authority(made)
    make_certificate(made, "server")
    return made


@pytest.fixture(scope="module")
def backends(stacks: SharedStacks) -> dict[str, Running]:
    stack = stacks.stack("local")
    return {kind: stacks.backend(stack, kind, VENVD_TRUSTED_PROXIES="127.0.0.1") for kind in KINDS}


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def ports(request: pytest.FixtureRequest, backends: dict[str, Running], folder: Path) -> Iterator[dict[str, int]]:
    """A proxy in front of both; the place of the controller leads to the HTTP backend."""
    upstreams = {name: urlsplit(backends[kind].url).port or 0 for kind, (_, name) in KINDS.items()}
    upstreams["venvd.example.com"] = upstreams["api.example.com"]
    with proxies.running(request.param, upstreams, (folder / "server.pem", folder / "server.key")) as proxy_ports:
        yield proxy_ports


@pytest.fixture(params=list(KINDS))
def backend(
    request: pytest.FixtureRequest, ports: dict[str, int], backends: dict[str, Running], folder: Path
) -> Iterator[venvd.Backend]:
    scheme, name = KINDS[request.param]
    url = f"{scheme}://localhost:{ports[name]}"
    with venvd.connect(url, backends[request.param].token, ca=str(folder / "ca.pem")) as connected:
        yield connected


def test_calls_and_large_bodies(backend: venvd.Backend) -> None:
    """Calls, errors and files of megabytes pass in both directions."""
    with backend.sessions.create() as session:
        assert session.eval("6 * 7") == 42
        with pytest.raises(ZeroDivisionError):
            session.eval("1 / 0")
        data = bytes(range(256)) * 80_000
        session.files.put("data", data)
        assert session.eval("len(open('data', 'rb').read())") == len(data)
        assert session.files.get("data") == data


def test_output_comes_while_code_runs(backend: venvd.Backend) -> None:
    """A proxy passes output on at once: the code waits for what its client does on reading the first line."""
    code = "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('end')"
    with backend.sessions.create() as session:
        printed = ""
        for event in session.exec_stream(code):
            if event.kind == "stdout":
                printed += event.data
                if printed == "begun\n":
                    session.files.put("go", b"")
        assert printed == "begun\nend\n"


@pytest.fixture
def list_refused(stacks: SharedStacks, backends: dict[str, Running]) -> Callable[[str], set[str]]:
    """List the addresses of the clients whose tokens the server of a backend refused."""

    def list_refused(kind: str) -> set[str]:
        lines = stacks.stack("local").engine.logs(backends[kind].record, None, follow=False)
        return {json.loads(line.text)["client"] for line in lines if "a token was refused" in line.text}

    return list_refused


def test_the_client_of_a_proxy(ports: dict[str, int], list_refused: Callable[[str], set[str]], folder: Path) -> None:
    """The server knows the client by the address that the proxy saw, whatever the client says of itself."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    source = f"127.0.0.{2 + ports['api.example.com'] % 200}"  # another one for each proxy
    connection = http.client.HTTPSConnection(
        "localhost", ports["api.example.com"], timeout=TIMEOUT, context=context, source_address=(source, 0)
    )
    with contextlib.closing(connection):
        headers = {"Authorization": "Bearer vd_wrong", "X-Forwarded-For": "203.0.113.9"}
        connection.request("POST", "/api/eval", '{"expression": "1"}', headers)
        assert connection.getresponse().status == 401
    wait_until(lambda: source in list_refused("http"), "the refusal is not in the log")
    assert "203.0.113.9" not in list_refused("http")


def test_the_client_of_a_proxy_of_grpc(backends: dict[str, Running], list_refused: Callable[[str], set[str]]) -> None:
    """The gRPC server takes the metadata of a trusted proxy as the HTTP server takes its header."""
    forwarded = (("authorization", "Bearer vd_wrong"), ("x-forwarded-for", "203.0.113.9, 198.51.100.7"))
    with grpc.insecure_channel(urlsplit(backends["rpc"].url).netloc) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            PythonServiceStub(channel).ListHandles(messages.ListHandlesRequest(), metadata=forwarded, timeout=TIMEOUT)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    wait_until(lambda: "198.51.100.7" in list_refused("rpc"), "the refusal is not in the log")
    assert "203.0.113.9" not in list_refused("rpc")
