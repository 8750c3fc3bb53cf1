"""The bytes of the doubles are those that the .NET clients put on the wire."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from compat.clients import Client, ModuleHandle, ObjectHandle, OldHttpClient, OldPipeClient, OldRpcClient
from compat.dotnet import http_client, pipes
from compat.dotnet.types import INT32, OBJECT, dictionary

LIST = ObjectHandle("h1", "list")
ANSWERS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of the next connection; what it sends beforehand is the answer."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    monkeypatch.setattr(http_client, "_open", lambda *_: near)
    monkeypatch.setattr(pipes, "_connect", lambda _: near)
    far.settimeout(60)
    yield far
    far.close()
    near.close()


def sent(far: socket.socket, client: Client, run: Callable[[], object]) -> str:
    """What a call sends."""
    far.sendall(ANSWERS)
    run()
    client.close()
    data = b""
    while piece := far.recv(1 << 16):
        data += piece
    return data.decode()


def test_the_http_client(far: socket.socket) -> None:
    """A call is a chunked POST in camelCase; null properties are left out, and null items are not."""
    client = OldHttpClient()
    args = [None, LIST, ModuleHandle("h2", "math"), "é"]
    body = (
        '{"handleId":"h1","methodName":"index","args":[null,'
        '{"handleId":"h1","typeName":"list","isValid":true},{"handleId":"h2","moduleName":"math"},"\\u00E9"],'
        '"returnType":"Dictionary\\u00602"}'
    )
    assert sent(far, client, lambda: client.call_method(dictionary(INT32), LIST, "index", args)) == (
        "POST /api/call HTTP/1.1\r\n"
        "Host: localhost:5678\r\n"
        "Transfer-Encoding: chunked\r\n"
        "Content-Type: application/json; charset=utf-8\r\n"
        "\r\n"
        f"{len(body):X}\r\n{body}\r\n"
        "0\r\n\r\n"
    )


def test_the_token_of_the_http_client(far: socket.socket) -> None:
    """Only the HTTP client can send a token; a GET has no other header."""
    client = OldHttpClient("http://localhost:1234", "secret")
    assert sent(far, client, client.initialize) == (
        "GET /health HTTP/1.1\r\nHost: localhost:1234\r\nAuthorization: Bearer secret\r\n\r\n"
    )


def test_long_bodies_of_the_http_client(far: socket.socket) -> None:
    """A long body goes out in several chunks."""
    client = OldHttpClient()
    text = sent(far, client, lambda: client.evaluate(OBJECT, "x" * 20_000))
    parts = text.partition("\r\n\r\n")[2].split("\r\n")
    assert [int(size, 16) for size in parts[::2][:3]] == [len(part) for part in parts[1::2][:3]]
    assert len(parts[1]) == http_client.CHUNK


def test_the_rpc_client(far: socket.socket) -> None:
    """A call is a POST with a length, in PascalCase, with nulls and the full name of the type."""
    client = OldRpcClient()
    body = (
        '{"HandleId":"h1","MethodName":"index","Args":[{"HandleId":"h1","TypeName":"list","IsValid":true}],'
        '"Kwargs":null,"ReturnType":"System.Int32"}'
    )
    assert sent(far, client, lambda: client.call_method(INT32, LIST, "index", [LIST])) == (
        "POST /rpc/PythonService/CallMethod HTTP/1.1\r\n"
        "Host: localhost:50051\r\n"
        "Content-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"\r\n{body}"
    )


@pytest.mark.parametrize("new_line", ["\n", "\r\n"])
def test_the_pipe_client(far: socket.socket, new_line: str) -> None:
    """A byte order mark comes first, and then a line for each call."""
    client = OldPipeClient(new_line=new_line)
    far.sendall(b'{"result": {"status": "ok"}}\n{"result": {"value": 3}}\r\n')
    assert client.initialize()
    assert far.recv(3) == b"\xef\xbb\xbf"
    assert client.evaluate(INT32, "1 + 2", {"None": None}) == 3
    assert far.recv(1 << 16).decode() == (
        f'{{"command":"ping","payload":{{}}}}{new_line}'
        '{"command":"eval","payload":{"expression":"1 \\u002B 2","locals":{"None":null},"returnType":"Int32"}}'
        f"{new_line}"
    )
    client.close()


def test_names_of_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is a socket in the temporary directory, and an absolute path is the socket itself."""
    monkeypatch.setenv("TMPDIR", "/somewhere")
    assert pipes.path_of(OldPipeClient.DEFAULT) == "/somewhere/CoreFxPipe_beep-python-pipe"
    monkeypatch.delenv("TMPDIR")
    assert pipes.path_of(OldPipeClient.DEFAULT) == "/tmp/CoreFxPipe_beep-python-pipe"
    assert pipes.path_of("/run/pipe.sock") == "/run/pipe.sock"
