"""The way out of containers: which addresses it refuses, and how it names the index."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from venvd_engines import egress


@pytest.mark.parametrize(
    ("address", "internal"),
    [
        ("10.1.2.3", True),
        ("172.31.255.1", True),
        ("192.168.0.1", True),
        ("169.254.169.254", True),
        ("127.0.0.1", True),
        ("0.0.0.0", True),
        ("100.64.0.1", True),
        ("::1", True),
        ("fd00::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:169.254.169.254", True),
        ("64:ff9b::a9fe:a9fe", True),
        ("::10.0.0.1", True),
        ("::ffff:0:10.0.0.1", True),
        ("2002:7f00:1::", True),
        ("fec0::1", True),
        ("203.0.113.7", False),
        ("168.63.129.16", True),
        ("8.8.8.8", False),
        ("172.32.0.1", False),
        ("2606:4700::1111", False),
    ],
)
def test_internal_addresses_are_known(address: str, *, internal: bool) -> None:
    """Private, link-local and loopback addresses are internal, also where IPv6 stands for IPv4."""
    assert egress.is_internal(address) is internal


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1"])
def test_no_connection_is_made_to_an_internal_address(host: str) -> None:
    """Each way to write an address is refused by what it resolves to."""
    with pytest.raises(egress.Refused, match="internal addresses"):
        egress.connect(host, 80, internal=False)


def test_the_local_address_of_an_index_has_no_credentials() -> None:
    """Clients of the forwarder see path and query of the index, and neither its host nor its password."""
    assert egress.make_local_index("https://me:secret@index.example/index/?a=b") == "http://127.0.0.1:3128/index/?a=b"


class _Index(http.server.BaseHTTPRequestHandler):
    """An index whose page links to itself by its whole address."""

    def do_GET(self) -> None:
        page = f'<a href="http://{self.headers["Host"]}/files/a.whl">{self.headers["Authorization"]}</a>'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """The socket of a broker with an index on loopback."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Index) as upstream:
        url = f"http://me:secret@127.0.0.1:{upstream.server_address[1]}/index"
        path = str(tmp_path / "broker.sock")
        with egress.Broker(path, {"index": url, "hosts": [f"127.0.0.1:{upstream.server_address[1]}"]}) as broker:
            for server in (upstream, broker):
                threading.Thread(target=server.serve_forever, daemon=True).start()
            yield path
            broker.shutdown()
        upstream.shutdown()


def ask(path: str, request: str) -> tuple[int, str]:
    """Return status and body of the answer to a request."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(path)
        connection.sendall(f"{request} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection, method=request.split(maxsplit=1)[0])
        answer.begin()
        return answer.status, answer.read().decode()


def test_the_index_gets_its_credentials_from_the_broker(broker: str) -> None:
    """A request without a host goes to the index with its credentials, and links lead back to the forwarder."""
    status, page = ask(broker, "GET /index/six/")
    assert status == 200
    assert 'href="http://127.0.0.1:3128/files/a.whl"' in page
    assert "Basic bWU6c2VjcmV0" in page


@pytest.mark.parametrize(
    "request_line", ["CONNECT 127.0.0.1:1", "GET http://127.0.0.1:1/", "CONNECT 169.254.169.254:80"]
)
def test_internal_hosts_are_refused_with_the_reason(broker: str, request_line: str) -> None:
    """What is not of the internet and was not named is answered with 403."""
    status, page = ask(broker, request_line)
    assert status == 403
    assert "internal addresses cannot be reached" in page


@pytest.mark.parametrize("request_line", ["CONNECT :1", "GET ftp://127.0.0.1/", "CONNECT nowhere.invalid:80"])
def test_what_is_no_destination_is_told(broker: str, request_line: str) -> None:
    """A destination that is none, or has no address, is answered with 502."""
    assert ask(broker, request_line)[0] == 502
