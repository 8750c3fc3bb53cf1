"""The way out of a container without network: a broker outside, and a forwarder inside on its loopback.

`broker SOCKET` listens on a Unix socket as an HTTP proxy. It resolves each name itself, refuses addresses that are not
of the internet, and connects to the address that it has checked, so that a second answer of the name server changes
nothing. A request without a host (`GET /path`) goes to the package index, with the credentials of the index, which the
client never sees. `forward PORT SOCKET` passes connections from loopback to the broker.

The program is one file, which containers run with their own Python: standard library only, CPython 3.9 and newer.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import json
import os
import selectors
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, cast
from urllib.parse import unquote, urlsplit

PORT = 3128
"""Of the forwarder, on loopback."""
CONFIG = "VENVD_EGRESS"
"""The variable with the configuration of the broker: JSON, `{"index", "ca", "hosts": ["host:port"]}`."""

CONNECT_SECONDS = 20.0
SILENT_SECONDS = 300.0
MOST_CONNECTIONS = 256
MOST_PAGE_BYTES = 64 << 20
"""Of a page of the index, which is rewritten as a whole."""
CHUNK_BYTES = 1 << 16

_INTERNAL = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4"),
        *("240.0.0.0/4", "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32"),
        *("2002::/16", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    )
]
"""Private, link-local, loopback, shared, multicast and reserved addresses, that of Azure's platform, and IPv6 ones that
stand for an IPv4 one. Addresses for documentation are not here: some sites give them to their package index.
"""
_HOP = {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding"}
_HOP |= {"upgrade", "accept-encoding", "host", "authorization"}


def is_internal(address: str) -> bool:
    """Return whether an address is not one of the internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return any(ip.version == network.version and ip in network for network in _INTERNAL) or (
        mapped is not None and is_internal(str(mapped))
    )


class Refused(Exception):
    """A destination that clients may not reach, or that does not answer."""


def connect(host: str, port: int, *, internal: bool) -> socket.socket:
    """Connect to a host; to an internal address only where that is allowed.

    Raises:
        Refused: says why there is no connection.
    """
    try:
        found = {info[4][0]: info for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise Refused(f"{host} cannot be resolved: {error}") from None
    usable = [info for address, info in found.items() if internal or not is_internal(str(address))]
    if not usable:
        raise Refused(f"{host} is {', '.join(map(str, found))}: internal addresses cannot be reached from here")
    reason: OSError | None = None
    for family, kind, protocol, _, address in usable:
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(CONNECT_SECONDS)
        try:
            connection.connect(address)
        except OSError as error:
            connection.close()
            reason = error
        else:
            connection.settimeout(SILENT_SECONDS)
            return connection
    raise Refused(f"{host} does not answer: {reason}")


def pump(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes in both directions until both sides have ended, or nothing passes for long."""
    peers = {one: other, other: one}
    with selectors.DefaultSelector() as selector:
        for side in peers:
            selector.register(side, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(SILENT_SECONDS)
            if not ready:
                return
            for key, _ in ready:
                side = cast("socket.socket", key.fileobj)
                data = side.recv(CHUNK_BYTES)
                if data:
                    peers[side].sendall(data)
                else:
                    selector.unregister(side)
                    with contextlib.suppress(OSError):
                        peers[side].shutdown(socket.SHUT_WR)


# ---- the broker ------------------------------------------------------------------------------------------------


class Index:
    """The package index: where it is, and what opens it."""

    def __init__(self, url: str, ca: str | None) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.secure = parts.scheme == "https"
        self.port = parts.port or (443 if self.secure else 80)
        self.netloc = parts.netloc.rpartition("@")[2]
        self.origin = f"{parts.scheme}://{self.netloc}"
        self.headers = {"Host": self.netloc}
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.headers["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
        self._tls = ssl.create_default_context(cafile=ca) if self.secure else None

    def open(self) -> http.client.HTTPConnection:
        raw = connect(self.host, self.port, internal=True)
        made = http.client.HTTPConnection(self.host, self.port)
        made.sock = raw if self._tls is None else self._tls.wrap_socket(raw, server_hostname=self.host)
        return made


def make_local_index(url: str) -> str:
    """Return the address of the index for clients of the forwarder, without credentials."""
    parts = urlsplit(url)
    return f"http://127.0.0.1:{PORT}{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"


class Broker(socketserver.ThreadingUnixStreamServer):
    """Listens on a socket; one thread for each connection, which carries one request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: str, config: dict[str, Any]) -> None:
        self.index = Index(config["index"], config.get("ca")) if config.get("index") else None
        self.hosts = frozenset(config.get("hosts") or ())
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(path, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._room.acquire()  # further connections wait in the queue
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is the client's matter."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SILENT_SECONDS
    server: Broker

    def address_string(self) -> str:
        return "client"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args

    def do_CONNECT(self) -> None:
        with self._refusals():
            host, port = _split(self.path, 443)
            with self._connect(host, port) as upstream:
                self.send_response_only(200, "Connection established")
                self.end_headers()
                pump(self.connection, upstream)

    def do_GET(self) -> None:
        with self._refusals():
            if self.path.startswith("/"):
                self._ask_index()
            else:
                self._ask_host()

    def do_HEAD(self) -> None:
        self.do_GET()

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Answer one request, and end the connection; what cannot be reached is answered with the reason."""
        self.close_connection = True
        try:
            yield
        except (Refused, ssl.SSLError, http.client.HTTPException) as error:
            self.send_error(403 if "internal" in str(error) else 502, explain=str(error))

    def _connect(self, host: str, port: int) -> socket.socket:
        return connect(host, port, internal=f"{host}:{port}" in self.server.hosts)

    def _ask_host(self) -> None:
        parts = urlsplit(self.path)
        if parts.scheme != "http" or not parts.hostname:
            raise Refused("a request takes http://host/path, or CONNECT host:port")
        host, port = _split(parts.netloc.rpartition("@")[2], 80)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = self._connect(host, port)
        path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        self._pass(connection, path, {"Host": parts.netloc.rpartition("@")[2]}, None)

    def _ask_index(self) -> None:
        index = self.server.index
        if index is None:
            raise Refused("no package index is set")
        self._pass(index.open(), self.path, index.headers, index)

    def _pass(
        self, connection: http.client.HTTPConnection, path: str, headers: dict[str, str], index: Index | None
    ) -> None:
        """Send the request on, and its answer back; pages of the index name the forwarder in place of the index."""
        kept = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        with contextlib.closing(connection):
            given = {**kept, **headers, "Accept-Encoding": "identity", "Connection": "close"}
            connection.request(self.command, path, headers=given)
            answer = connection.getresponse()
            page = index is not None and _is_page(answer) and self.command == "GET"
            body = answer.read(MOST_PAGE_BYTES + 1) if page else b""
            if len(body) > MOST_PAGE_BYTES:
                raise Refused(f"a page of the package index is larger than {MOST_PAGE_BYTES} bytes")
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP and not (page and name.lower() == "content-length"):
                    self.send_header(name, _localize(value.encode("latin-1"), index).decode("latin-1"))
            if page:
                body = _localize(body, index)
                self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
            while not page and self.command == "GET" and (chunk := answer.read(CHUNK_BYTES)):
                self.wfile.write(chunk)


def _is_page(answer: http.client.HTTPResponse) -> bool:
    kind = answer.headers.get_content_type()
    return kind == "text/html" or (kind.startswith("application/vnd.") and ".simple." in kind)


def _localize(text: bytes, index: Index | None) -> bytes:
    """Name the forwarder in place of the index."""
    if index is None:
        return text
    return text.replace(f"{index.origin}/".encode(), f"http://127.0.0.1:{PORT}/".encode())


def _split(authority: str, usual: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname, parts.port or usual
    except ValueError:
        host, port = None, 0
    if not host:
        raise Refused(f"{authority[:200]} is no host and port")
    return host, port


def serve(path: str) -> None:
    """Serve until the container ends; returns in the first process as soon as the socket listens."""
    config = json.loads(os.environ.pop(CONFIG))
    os.umask(0)  # clients are other users
    broker = Broker(path, config)
    if os.fork() == 0:
        os.setsid()
        devnull = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(devnull, descriptor)
        broker.serve_forever()


# ---- the forwarder ---------------------------------------------------------------------------------------------


class _Forwarder(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128
    broker: str

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is the client's matter."""


class _Passage(socketserver.BaseRequestHandler):
    server: _Forwarder

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(self.server.broker)
            pump(self.request, upstream)


def forward(port: int, path: str) -> None:
    """Pass connections from loopback to the broker, for ever."""
    forwarder = _Forwarder(("127.0.0.1", port), _Passage)
    forwarder.broker = path
    forwarder.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "broker":
        serve(sys.argv[2])
    else:
        forward(int(sys.argv[2]), sys.argv[3])
