"""The broker as a proxy: what it passes on, what it refuses, and what it makes of strange requests."""

from __future__ import annotations

import ssl

import pytest
from harness.egress import Client, Host, Start

from venvd_egress.broker import MOST_CONNECTIONS
from venvd_egress.destinations import parse_destinations
from venvd_egress.index import Index, make_local_url
from venvd_egress.rules import Rules


@pytest.fixture
def client(start: Start, host: Host) -> Client:
    """A broker for the host and for `allowed.example`."""
    destinations = parse_destinations([f"127.0.0.1:{host.port}", "allowed.example"])
    return start(Rules(destinations, trusted=frozenset({("127.0.0.1", host.port)})))


def address(host: Host) -> bytes:
    return f"127.0.0.1:{host.port}".encode()


def test_a_request_goes_on_with_its_body(client: Client, host: Host) -> None:
    """The host gets the path, the headers and the body of the client, and nothing that concerns the proxy."""
    host.more = b"body"
    answer = client.ask(
        b"POST http://"
        + address(host)
        + b"/a?b=c HTTP/1.1\r\nHost: other.example\r\nX-Mine: 1\r\nContent-Length: 4\r\n"
        b"Proxy-Authorization: x\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\nbody"
    )
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    assert host.received == [
        b"POST /a?b=c HTTP/1.1\r\nHost: " + address(host) + b"\r\nX-Mine: 1\r\nContent-Length: 4\r\n"
        b"Connection: close\r\n\r\nbody"
    ]


def test_chunks_are_written_afresh(client: Client, host: Host) -> None:
    """Chunked bodies pass in both directions, without extensions and trailers."""
    host.more = b"0\r\n\r\n"
    host.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nX-Late: 1\r\n\r\n"
    head = b"POST http://" + address(host) + b"/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = client.ask(head + b"4;a\r\nbody\r\n0\r\nX-Late: 1\r\n\r\n")
    assert answer.endswith(b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    assert host.received[0].endswith(b"\r\n\r\n4\r\nbody\r\n0\r\n\r\n")


def test_an_older_client_gets_no_chunks(client: Client, host: Host) -> None:
    """A client of HTTP/1.0 gets the bare body."""
    host.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    answer = client.ask(b"GET http://" + address(host) + b"/ HTTP/1.0\r\n\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"


def test_a_client_that_waits_may_go_on(client: Client, host: Host) -> None:
    """`Expect: 100-continue` is answered by the broker."""
    host.more = b"body"
    with client.connect() as connection:
        head = b"PUT http://" + address(host) + b"/ HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        connection.sendall(head)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"body")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_a_tunnel_passes_bytes(client: Client, host: Host) -> None:
    """After CONNECT, bytes pass untouched."""
    host.more = b"end"
    with client.connect() as connection:
        connection.sendall(b"CONNECT " + address(host) + b" HTTP/1.1\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 200 Connection established\r\n\r\n"
        connection.sendall(b"\x16\x03\x01 anything\r\n\r\nend")
        assert connection.recv(100) == host.answer
        assert host.received == [b"\x16\x03\x01 anything\r\n\r\nend"]


@pytest.mark.parametrize(
    "request_line",
    [
        b"CONNECT other.example:443",
        b"GET http://other.example/",
        b"CONNECT allowed.example:22",
        b"CONNECT 10.0.0.1:443",
    ],
)
def test_other_destinations_are_refused(client: Client, request_line: bytes) -> None:
    """What is not in the list is answered with 403, and with the reason in the first line."""
    answer = client.ask(request_line + b" HTTP/1.1\r\nHost: allowed.example\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 Forbidden: ")
    assert b'to the list "network"' in answer.partition(b"\r\n")[0]
    assert [refusal.kind for refusal in client.refusals] == ["destination"]


@pytest.mark.parametrize(
    "head",
    [
        *(b"GET / HTTP/1.1", b"GET ftp://allowed.example/ HTTP/1.1", b"CONNECT allowed.example HTTP/1.1"),
        *(b"GET http://me@allowed.example/ HTTP/1.1", b"CONNECT :443 HTTP/1.1", b"GET http://allowed.example/ HTTP/2"),
        *(b"GET  http://allowed.example/ HTTP/1.1", b"GET http://allowed.example/\xff HTTP/1.1", b"\x16\x03\x01"),
        *(b"GET http://allowed.example/ HTTP/1.1\nX: 1", b"GET http://allowed.example/ HTTP/1.1\r\nX: a\rb"),
        *(b"GET http://allowed.example/ HTTP/1.1\r\nX: a\0b", b"GET http://allowed.example/ HTTP/1.1\r\n folded"),
        *(b"GET http://allowed.example/ HTTP/1.1\r\nX : 1", b"GET http://allowed.example/ HTTP/1.1\r\n: 1"),
        b"GET http://allowed.example/ HTTP/1.1\r\nX: " + b"a" * 70_000,
        b"GET https://allowed.example/ HTTP/1.1",
    ],
)
def test_strange_heads_are_refused(client: Client, head: bytes) -> None:
    """A head that two readers could understand differently is answered with 400."""
    assert client.ask(head + b"\r\n\r\n").startswith(b"HTTP/1.1 400 Bad Request: ")


@pytest.mark.parametrize(
    "fields",
    [
        *(b"Content-Length: 4\r\nTransfer-Encoding: chunked", b"Content-Length: 4\r\nContent-Length: 5"),
        *(b"Content-Length: +4", b"Content-Length: 4, 5", b"Transfer-Encoding: gzip, chunked"),
        *(b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked, chunked", b"Content-Length: 0x4"),
    ],
)
def test_unclear_bodies_are_refused(client: Client, host: Host, fields: bytes) -> None:
    """A body whose end is not clear is answered with 400, and the host gets nothing of the request."""
    answer = client.ask(b"POST http://" + address(host) + b"/ HTTP/1.1\r\n" + fields + b"\r\n\r\nbody")
    assert answer.startswith(b"HTTP/1.1 400 Bad Request: the length of the body is not clear")
    assert b"".join(host.received) == b""


def test_a_second_request_is_not_passed_on(client: Client, host: Host) -> None:
    """What follows the body of a request reaches no host, so that no second request is hidden in a first one."""
    hidden = b"GET http://other.example/ HTTP/1.1\r\n\r\n"
    answer = client.ask(b"GET http://" + address(host) + b"/ HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + hidden)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"other" not in host.received[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX: a\nb\r\n\r\n",
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
    ],
)
def test_strange_answers_are_refused(client: Client, host: Host, answer: bytes) -> None:
    """A host that answers with something else than HTTP/1.1 gives an error, and no byte of it."""
    host.answer = answer
    seen = client.ask(b"GET http://" + address(host) + b"/ HTTP/1.1\r\n\r\n")
    assert seen.startswith(b"HTTP/1.1 400 Bad Request: ")


def test_a_host_that_does_not_answer_is_told(client: Client, host: Host) -> None:
    """A name without an address gives 502, as a broken connection does."""
    answer = client.ask(b"CONNECT allowed.example:443 HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway: allowed.example cannot be resolved")
    assert [refusal.kind for refusal in client.refusals] == ["unreachable"]


def test_connections_are_bounded(client: Client, host: Host) -> None:
    """Further connections are told so, and the first one that ends makes room."""
    held = [client.connect() for _ in range(MOST_CONNECTIONS)]
    request = b"GET http://" + address(host) + b"/ HTTP/1.1\r\n\r\n"
    assert client.ask(request).startswith(b"HTTP/1.1 503 ")
    for connection in held:
        connection.close()
    while not (answer := client.ask(request)).startswith(b"HTTP/1.1 200 "):
        assert answer.startswith(b"HTTP/1.1 503 ")


def test_an_index_is_asked_with_its_credentials(start: Start, host: Host) -> None:
    """A request without a host goes to the index with its credentials, and links lead back to the forwarder."""
    url = f"http://me:secret@127.0.0.1:{host.port}/index"
    page = f'<a href="http://127.0.0.1:{host.port}/files/a.whl">'.encode()
    host.answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    host.answer += b"%x\r\n%b\r\n0\r\n\r\n" % (len(page), page)
    trusted = frozenset({("127.0.0.1", host.port)})
    client = start(Rules(trusted=trusted), index=Index(url, ssl.create_default_context()))
    answer = client.ask(b"GET /index/six/ HTTP/1.1\r\nHost: x\r\nAuthorization: mine\r\n\r\n")
    assert answer.endswith(b'\r\n\r\n<a href="http://127.0.0.1:3128/files/a.whl">')
    assert b"Content-Length: 44\r\n" in answer
    assert b"Authorization: Basic bWU6c2VjcmV0\r\n" in host.received[0]
    assert b"mine" not in host.received[0]


def test_the_local_address_of_an_index_has_no_credentials() -> None:
    """Clients of the forwarder see path and query of the index, and neither its host nor its password."""
    assert make_local_url("https://me:secret@index.example/index/?a=b") == "http://127.0.0.1:3128/index/?a=b"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_an_index_is_only_read(start: Start, host: Host, method: str) -> None:
    """A client cannot change the index with the credentials of the broker: such a request does not reach it."""
    trusted = frozenset({("127.0.0.1", host.port)})
    index = Index(f"http://me:secret@127.0.0.1:{host.port}/index", ssl.create_default_context())
    answer = start(Rules(trusted=trusted), index=index).ask(f"{method} /index/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 501 Not Implemented: ")
    assert host.received == []
