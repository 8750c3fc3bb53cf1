"""A way to the API server of a cluster that sees each request, and that a test can disturb."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_SECONDS = 60
_OWN_HEADERS = frozenset({"host", "connection", "content-length", "transfer-encoding", "accept-encoding"})


class CutError(Exception):
    """The connection of a request ends here, without an answer."""


@dataclass(frozen=True)
class Request:
    """A request on its way.

    Attributes:
        moment: `before` the API server has it, or `after` it has answered.
    """

    method: str
    path: str
    body: bytes
    moment: str

    @property
    def changes(self) -> bool:
        return self.method in CHANGES

    @property
    def content(self) -> dict[str, Any]:
        """The object in the body; empty where there is none."""
        with contextlib.suppress(ValueError):
            content: dict[str, Any] = json.loads(self.body)
            return content
        return {}


class ApiProxy:
    """Passes requests on through `kubectl proxy`, which has the credentials.

    Attributes:
        kubeconfig: leads to it.
        see: called with each request, before and after; it raises `CutError` where the connection is to end.
        rewrite: makes the path that the API server gets.
    """

    def __init__(self, folder: Path) -> None:
        self.see: Callable[[Request], None] = lambda _request: None
        self.rewrite: Callable[[str], str] = lambda path: path
        self._kubectl = subprocess.Popen(["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self._kubectl.stdout is not None
        self.address = self._kubectl.stdout.readline().split()[-1]
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(make_config(f"http://127.0.0.1:{self._server.server_address[1]}")))

    def ask(self, path: str) -> dict[str, Any]:
        """Ask the API server, unseen."""
        connection = self._connect()
        try:
            connection.request("GET", path)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.address, timeout=_SECONDS)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._kubectl.terminate()
        self._kubectl.wait()
        assert self._kubectl.stdout is not None
        self._kubectl.stdout.close()


def make_config(server: str) -> dict[str, Any]:
    """Make the content of a kubeconfig without credentials."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxy", "cluster": {"server": server}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "none"}}],
        "users": [{"name": "none", "user": {}}],
        "current-context": "proxy",
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: ApiProxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self.proxy.see(Request(self.command, self.path, body, "before"))
            with contextlib.closing(self.proxy._connect()) as connection:
                headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN_HEADERS}
                connection.request(self.command, self.proxy.rewrite(self.path), body or None, headers)
                response = connection.getresponse()
                first = b"" if response.chunked else response.read()
                self.proxy.see(Request(self.command, self.path, body, "after"))
                self._answer(response, first)
        except (CutError, OSError, http.client.HTTPException):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the names that the base class calls

    def _answer(self, response: http.client.HTTPResponse, content: bytes) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            if name.lower() not in _OWN_HEADERS:
                self.send_header(name, value)
        if response.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while part := response.read1(65536):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def running_proxy(folder: Path) -> Iterator[ApiProxy]:
    proxy = ApiProxy(folder)
    try:
        yield proxy
    finally:
        proxy.close()
