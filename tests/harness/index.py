"""A package index of wheels made by hand, behind a password, where build containers reach it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import tarfile
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


BACKEND = """
import base64, hashlib, json, os, zipfile
import attack

def build_wheel(folder, config_settings=None, metadata_directory=None):
    loot = json.dumps(attack.run())
    info = "{name}-1.0.dist-info"
    members = {{
        "{name}.py": "loot = " + repr(loot),
        info + "/METADATA": "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n",
        info + "/WHEEL": "Wheel-Version: 1.0\\nGenerator: attack\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }}
    members[info + "/RECORD"] = "".join(path + ",,\\n" for path in [*members, info + "/RECORD"])
    with zipfile.ZipFile(os.path.join(folder, "{name}-1.0-py3-none-any.whl"), "w") as archive:
        for path, text in members.items():
            archive.writestr(path, text)
    return "{name}-1.0-py3-none-any.whl"
"""


def sdist(name: str, attack: str) -> bytes:
    """A source distribution whose build runs `run()` of `attack`; the built module has the result as `loot`."""
    members = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.format(name=name),
        "attack.py": attack,
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, text in members.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{path}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


@contextlib.contextmanager
def serving(
    host: str, packages: Mapping[str, Mapping[str, str]], attacks: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The address, password included, of an index with version 1.0 of each package, made of the files given for it.

    `attacks` are packages that exist as source distributions only: the code of `sdist` by the name of the package.
    """
    wheels = {f"{name}-1.0-py3-none-any.whl": wheel(name, "1.0", files) for name, files in packages.items()}
    wheels |= {f"{name}-1.0.tar.gz": sdist(name, code) for name, code in (attacks or {}).items()}
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
