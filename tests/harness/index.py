"""A package index of wheels made by hand, behind a password, where build containers reach it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, PASSWORD = "somebody", "a-password-that-stays-secret"


def wheel(name: str, version: str, files: Mapping[str, str]) -> bytes:
    """A pure wheel that holds these files."""
    info = f"{name}-{version}.dist-info"
    members = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {path: hashlib.sha256(text.encode()).digest() for path, text in members.items()}
    lines = [
        f"{path},sha256={base64.urlsafe_b64encode(digests[path]).rstrip(b'=').decode()},{len(text.encode())}"
        for path, text in members.items()
    ]
    members[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in members.items():
            archive.writestr(path, text)
    return buffer.getvalue()


@contextlib.contextmanager
def serving(host: str, packages: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """The address, password included, of an index with version 1.0 of each package, made of the files given for it."""
    wheels = {f"{name}-1.0-py3-none-any.whl": wheel(name, "1.0", files) for name, files in packages.items()}
    wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if self.headers["Authorization"] != wanted:
                self._answer(401, b"")
                return
            name = self.path.strip("/").rpartition("/")[2]
            if name in wheels:
                self._answer(200, wheels[name])
                return
            files = [file for file in wheels if file.startswith(f"{name.replace('-', '_')}-")]
            links = "".join(
                f'<a href="/files/{file}#sha256={hashlib.sha256(wheels[file]).hexdigest()}">{file}</a>'
                for file in files
            )
            self._answer(200 if files else 404, links.encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{USER}:{PASSWORD}@{host}:{server.server_address[1]}/index"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
