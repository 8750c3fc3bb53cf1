"""Health, reflection, TLS, and the HTTP port."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from harness.certificates import make_authority, make_certificate
from harness.ports import free_port

from venvd_proto.v1 import python_service_pb2 as pb

from .conftest import METADATA, Server, Start, is_ready, serve, until, warden  # type: ignore[import-not-found]

SERVICES = ("", "venvd.v1.PythonService", "venvd.v1.SessionService", "venvd.v1.VenvService")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health(server: Server, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(server.channel)
    return int(stub.Check(health_pb2.HealthCheckRequest(service=service)).status)


@pytest.mark.slow
def test_serving_for_each_service(server: Server) -> None:
    """A ready server is SERVING as a whole and for each service; others it does not know."""
    assert [health(server, name) for name in SERVICES] == [SERVING] * len(SERVICES)
    with pytest.raises(grpc.RpcError) as caught:
        health(server, "venvd.v1.Nothing")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.slow
def test_serving_only_while_the_worker_is_there(archive: Path, tmp_path: Path) -> None:
    """Health follows the worker host as it comes and goes, for who asks and for who watches."""
    (tmp_path / "channel").mkdir()
    with serve(tmp_path, None, {}) as server:
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert health(server) == NOT_SERVING
        assert next(watch).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            server.python.Evaluate(pb.EvaluateRequest(expression="1"), metadata=METADATA)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not is_ready(server)
        with warden(archive, tmp_path) as process:
            assert next(watch).status == SERVING
            assert health(server) == SERVING
            process.kill()
            assert next(watch).status == NOT_SERVING
            assert server.python.Health(pb.HealthRequest()).status == "ok"


# ---- reflection ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_a_call_through_reflection_alone(server: Server, version: str) -> None:
    """A client that knows no proto finds the services, builds a message and calls a method."""
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    ask = server.channel.stream_stream(
        method,
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    wanted = reflection_pb2.ServerReflectionRequest(list_services="")
    (listed,) = ask(iter([wanted]), metadata=METADATA)
    names = {service.name for service in listed.list_services_response.service}
    assert {*SERVICES[1:], "grpc.health.v1.Health"} <= names
    wanted = reflection_pb2.ServerReflectionRequest(file_containing_symbol="venvd.v1.PythonService")
    (file,) = ask(iter([wanted]), metadata=METADATA)
    pool = DescriptorPool()
    for data in file.file_descriptor_response.file_descriptor_proto:
        pool.AddSerializedFile(data)
    evaluate = pool.FindServiceByName("venvd.v1.PythonService").methods_by_name["Evaluate"]
    request, response = GetMessageClass(evaluate.input_type), GetMessageClass(evaluate.output_type)
    call = server.channel.unary_unary(
        "/venvd.v1.PythonService/Evaluate", request.SerializeToString, response.FromString
    )
    assert call(request(expression="6 * 7"), metadata=METADATA).value_json == "42"


def test_reflection_needs_the_token(server: Server) -> None:
    """What the server speaks is told to those with a token only."""
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")])))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


# ---- TLS -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a server and a client that it signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    make_authority(folder)
    for name in ("server", "client"):
        make_certificate(folder, name)
    return folder


@pytest.mark.slow
def test_tls_with_certificates_of_clients(start: Start, certificates: Path) -> None:
    """With certificate, key and client authority, only a client with a signed certificate is served."""
    root = (certificates / "ca.pem").read_bytes()
    pair = [(certificates / name).read_bytes() for name in ("client.key", "client.pem")]
    settings = {
        "VENVD_TLS_CERT": str(certificates / "server.pem"),
        "VENVD_TLS_KEY": str(certificates / "server.key"),
        "VENVD_TLS_CLIENT_CA": str(certificates / "ca.pem"),
    }
    known = grpc.ssl_channel_credentials(root, *pair)
    with start(credentials=known, **settings) as server:
        assert server.python.Health(pb.HealthRequest()).status == "ok"
        for channel in (
            grpc.secure_channel(f"localhost:{server.port}", grpc.ssl_channel_credentials(root)),
            grpc.insecure_channel(f"localhost:{server.port}"),
        ):
            call = channel.unary_unary("/venvd.v1.PythonService/Health")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"")
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            channel.close()


@pytest.mark.slow
def test_a_renewed_certificate(start: Start, certificates: Path, tmp_path: Path) -> None:
    """New connections get a new certificate; broken files leave the old one in use."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(name: str, *paths: Path) -> None:
        for path in paths:
            shutil.copy(certificates / f"{name}.{'pem' if path is cert else 'key'}", path)

    install("server", cert, key)
    root = grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes())
    with start(credentials=root, VENVD_TLS_CERT=str(cert), VENVD_TLS_KEY=str(key)) as server:

        def read_shown() -> str:
            return ssl.get_server_certificate(("localhost", server.port), timeout=60).strip()

        assert read_shown() in (certificates / "server.pem").read_text()
        install("client", key)
        assert read_shown() in (certificates / "server.pem").read_text()
        install("client", cert)
        assert read_shown() in (certificates / "client.pem").read_text()
        assert server.python.Health(pb.HealthRequest()).status == "ok"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"VENVD_TLS_CERT": "/nowhere.pem"}, "VENVD_TLS_KEY"),
        ({"VENVD_TLS_CERT": "/nowhere.pem", "VENVD_TLS_KEY": "/nowhere.key"}, "nowhere"),
        ({"VENVD_TLS_CLIENT_CA": "/nowhere.pem"}, "VENVD_TLS_CLIENT_CA"),
    ],
)
@pytest.mark.slow
def test_tls_that_cannot_be(settings: dict[str, str], says: str) -> None:
    """Half of what TLS needs, or files that are not there, end the server with a sentence."""
    assert says in refused(VENVD_PORT=str(free_port()), VENVD_HTTP_PORT=str(free_port()), **settings)


@pytest.mark.slow
def test_a_port_that_is_taken(server: Server) -> None:
    """A port that another server has ends this one with its number."""
    for ports in ((server.port, free_port()), (free_port(), server.http_port)):
        said = refused(VENVD_PORT=str(ports[0]), VENVD_HTTP_PORT=str(ports[1]))
        assert f"{ports[0]} cannot be" in said or f"{ports[1]} cannot be" in said


def refused(**settings: str) -> str:
    environment = {"VENVD_NO_TOKEN": "1", "VENVD_HOST": "127.0.0.1", "VENVD_CHANNEL": tempfile.mkdtemp(), **settings}
    command = [sys.executable, "-m", "venvd_rpc_backend"]
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False, text=True)
    assert ended.returncode in {1, 2}
    assert "Traceback" not in ended.stderr
    return ended.stderr


# ---- the HTTP port ---------------------------------------------------------------------------------------------


def post(server: Server, method: str, body: Any, **headers: Any) -> tuple[int, Any]:
    status, answer = server.http("POST", f"/rpc/PythonService/{method}", body, **headers)
    return status, answer


def test_probes_and_metrics(server: Server) -> None:
    """Probes are open, metrics are for the token."""
    assert [server.http("GET", path, token=None)[0] for path in ("/health", "/livez", "/readyz")] == [200, 200, 200]
    assert server.http("GET", "/metrics", token=None)[0] == 401
    assert b"venvd_" in server.http("GET", "/metrics")[1]


def test_old_clients(server: Server) -> None:
    """Methods answer PascalCase JSON with PascalCase JSON."""
    status, module = post(server, "ImportModule", {"ModuleName": "collections"})
    assert (status, module["TypeName"]) == (200, "module")
    request = {"ModuleHandleId": module["HandleId"], "ClassName": "Counter", "Args": ["abca"], "Kwargs": {}}
    made = post(server, "CreateObject", request)[1]
    call = {"HandleId": made["HandleId"], "MethodName": "most_common", "Args": [1]}
    assert post(server, "CallMethod", call) == (200, {"Value": [["a", 2]]})
    output = post(server, "Execute", {"Code": "print('x')\n1 / 0"})[1]
    assert (output["Stdout"], output["Error"]["ErrorType"]) == ("x\n", "ZeroDivisionError")
    wrapped = post(server, "WrapValue", {"Value": [1, 2]})[1]
    assert post(server, "ToFloatArray", {"HandleId": wrapped["HandleId"]}) == (200, {"Data": [1.0, 2.0]})
    assert server.http("POST", "/rpc/PythonService/Health", token=None) == (200, {"Status": "ok"})


def test_old_clients_errors(server: Server) -> None:
    """Errors are problem details with the status of their code."""
    assert post(server, "Evaluate", {"Expression": "1 / 0"})[1]["errorType"] == "ZeroDivisionError"
    statuses = {
        "no method": post(server, "Nothing", {})[0],
        "planned": post(server, "GetArray", {})[0],
        "no object": post(server, "Evaluate", [1])[0],
        "no JSON": post(server, "Evaluate", b"{")[0],
        "no token": server.http("POST", "/rpc/PythonService/Evaluate", {}, token=None)[0],
        "no session": server.http("POST", "/rpc/PythonService/Evaluate", {"Code": "1"}, **{"X-Venvd-Session": "x"})[0],
        "no POST": server.http("GET", "/rpc/PythonService/Evaluate")[0],
        "too large": post(server, "Evaluate", json.dumps({"Code": "x" * (17 << 20)}).encode())[0],
    }
    assert statuses == {
        "no method": 404,
        "planned": 501,
        "no object": 400,
        "no JSON": 400,
        "no token": 401,
        "no session": 404,
        "no POST": 400,
        "too large": 413,
    }


def test_old_clients_timeouts(server: Server) -> None:
    """`X-Venvd-Timeout` bounds the call."""
    headers = {"X-Venvd-Timeout": "0.2"}
    status, answer = server.http("POST", "/rpc/PythonService/Evaluate", {"Code": "while True: pass"}, **headers)
    assert (status, answer["code"]) == (504, "timeout")


def test_old_clients_that_go(server: Server) -> None:
    """A client that closes its connection cancels its call."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
    headers = {"Authorization": METADATA[0][1]}
    body = json.dumps({"Code": "import time\nwhile True: time.sleep(0.01)"})
    connection.request("POST", "/rpc/PythonService/Evaluate", body, headers)

    def busy() -> bool:
        stream = server.sessions.ListSessions
        from venvd_proto.v1.session_service_pb2 import ListSessionsRequest

        return any(each.state == "busy" for each in stream(ListSessionsRequest(), metadata=METADATA).sessions)

    until(busy, "the call does not run")
    connection.close()
    until(lambda: not busy(), "the call still runs")


def is_held(port: int, client_port: int) -> bool:
    """Whether a process holds the server's end of a connection: the kernel may send for a while after its close."""
    ends = [f"0100007F:{number:04X}" for number in (port, client_port)]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any(row[1:3] == ends and row[9] != "0" for row in rows)


@pytest.mark.slow
def test_a_client_that_never_reads(start: Start) -> None:
    """An answer that the client does not read within the stall timeout ends the connection."""
    with start(worker=True, VENVD_STALL_TIMEOUT="1") as server, socket.socket() as client:
        client.connect(("127.0.0.1", server.http_port))
        body = json.dumps({"Code": "'x' * 15_000_000"})
        head = f"POST /rpc/PythonService/Evaluate HTTP/1.1\r\nHost: test\r\nAuthorization: {METADATA[0][1]}\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        client.recv(1, socket.MSG_PEEK)  # waits until the answer comes, and takes nothing of it
        until(lambda: not is_held(server.http_port, client.getsockname()[1]), "the connection is still there")
