"""The client of registries, against the registry of the CNCF with the ways to log in that it has."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness.ports import free_port
from harness.stack import probe
from harness.waiting import wait_until

from venvd_contract.errors import NotFound, Unavailable
from venvd_engines.kubernetes.layer import Layer, push, write_layer
from venvd_engines.kubernetes.registry import OCI_MANIFEST, Repository

pytestmark = pytest.mark.needs("docker-registry")

PASSWORDS = "venvd:$2b$04$n1z.82Q0X4RENwBR2wdMLOvlolZhexc2o0KmhTbGx0liOECCdC5E6\n"
"""The hash of `the password`, as htpasswd writes it."""
CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: tests, path: {folder}/passwords}}}}
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that wants a password."""
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    (folder / "passwords").write_text(PASSWORDS)
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder, port=port))
    env = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    command = ["docker-registry", "serve", folder / "config.yaml"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as process:
        try:
            wait_until(lambda: _answers(port), (folder / "log").read_text)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        return probe(f"http://127.0.0.1:{port}", "/v2/") == 401
    return False


def make_credentials(host: str, word: str = "the password") -> dict[str, Any]:
    return {"auths": {host: {"auth": base64.b64encode(f"venvd:{word}".encode()).decode()}}}


@pytest.fixture
def repository(registry: str) -> Repository:
    return Repository(f"{registry}/venvd/venv", credentials=make_credentials(registry))


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def put_image(repository: Repository, *blobs: bytes, config: bytes = b'{"rootfs": {"diff_ids": []}}') -> str:
    """Push an image whose layers have this content; its digest."""
    for blob in (config, *blobs):
        repository.put_blob(digest(blob), blob)
    layers = [{"mediaType": f"{OCI_MANIFEST}.layer", "digest": digest(blob), "size": len(blob)} for blob in blobs]
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": len(config)}
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": layers}
    content = json.dumps(manifest).encode()
    repository.put_manifest(digest(content), content, OCI_MANIFEST)
    return digest(content)


def test_a_password_opens_a_registry(registry: str, repository: Repository) -> None:
    """Blobs and manifests are read as they were written; without the password or with a wrong one, neither is."""
    image = put_image(repository, b"a layer")
    manifest = repository.find(image)
    assert manifest is not None
    assert repository.read_blob(manifest.content["layers"][0]["digest"]) == b"a layer"
    for credentials in ({}, make_credentials(registry, "wrong"), make_credentials("other.example.com")):
        stranger = Repository(repository.name, credentials=credentials)
        with pytest.raises(Unavailable, match="refuses the credentials"):
            stranger.find(image)


def test_a_removed_tag_leaves_the_image_of_others(repository: Repository) -> None:
    """A tag that is removed is gone, twice is no error, and another tag of the same image stays."""
    manifest = repository.find(put_image(repository, b"a shared layer"))
    assert manifest is not None
    for tag in ("mine", "theirs"):
        repository.put_manifest(tag, manifest.raw, manifest.media_type)
    repository.remove_tag("mine")
    repository.remove_tag("mine")
    assert repository.find("mine") is None
    assert repository.find("theirs") == manifest
    assert repository.list_tags() == ["theirs"]


class OldRegistry(Repository):
    """A registry of before OCI 1.1, which refuses to remove a tag."""

    def _request(self, method: str, path: str, accepted: set[int], **options: Any) -> Any:
        if method == "DELETE" and "sha256:" not in path:
            path = "tags/list"  # refused with status 405
        return super()._request(method, path, accepted, **options)


def test_a_tag_is_removed_where_only_manifests_can_be(registry: str, repository: Repository) -> None:
    """Where a registry removes manifests alone, a removed tag is gone too, and another tag of the same image stays."""
    manifest = repository.find(put_image(repository, b"an old layer"))
    assert manifest is not None
    for tag in ("old-mine", "old-theirs"):
        repository.put_manifest(tag, manifest.raw, manifest.media_type)
    old = OldRegistry(repository.name, credentials=make_credentials(registry))
    old.remove_tag("old-mine")
    assert repository.find("old-mine") is None
    assert repository.find("old-theirs") == manifest


def test_equal_environments_are_pushed_as_equal_images(registry: str, repository: Repository, tmp_path: Path) -> None:
    """A layer on a base of another repository gives the same image each time, and the base's layers come along."""
    source = Repository(f"{registry}/venvd/base", credentials=make_credentials(registry))
    settings = {"Env": ["PATH=/bin", "HOME=/"], "Entrypoint": ["x"]}
    config = {"rootfs": {"diff_ids": [digest(b"base")]}, "config": settings}
    base = put_image(source, b"the base", config=json.dumps(config).encode())
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "file").write_text("content")

    def push_once() -> str:
        with (tmp_path / "layer").open("wb") as out:
            layer: Layer = write_layer(tmp_path / "env", "env", out)
        return push(repository, source, base, tmp_path / "layer", layer, {"User": "10001"})

    image = push_once()
    assert image == push_once()
    manifest = repository.find(image)
    assert manifest is not None
    assert repository.read_blob(manifest.content["layers"][0]["digest"]) == b"the base"
    made = json.loads(repository.read_blob(manifest.content["config"]["digest"]))
    assert made["config"] == {"User": "10001", "Env": ["PATH=/env/bin:/bin"]}
    assert len(made["rootfs"]["diff_ids"]) == len(manifest.content["layers"]) == 2


def test_what_a_registry_lacks_is_not_found(repository: Repository) -> None:
    """A manifest that is not there is none; a blob that is not there is an error that names it."""
    nothing = digest(b"nothing")
    assert repository.find(nothing) is None
    with pytest.raises(NotFound, match=nothing):
        repository.read_blob(nothing)


def test_a_registry_that_is_away_says_so() -> None:
    """No registry at an address is an error within seconds that names it."""
    away = Repository(f"127.0.0.1:{free_port()}/venvd/venv")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+ does not answer"):
        away.find("tag")


class Tokens(BaseHTTPRequestHandler):
    """A registry with tokens: each allows what its scope names, and costs the password."""

    def do_GET(self) -> None:
        if self.path.startswith("/token"):
            known = self.headers.get("Authorization") == f"Basic {base64.b64encode(b'venvd:the password').decode()}"
            scope = self.path.partition("scope=")[2].partition("&")[0]
            self._answer(200 if known else 401, json.dumps({"token": scope}).encode())
        else:
            self._serve("pull")

    def do_POST(self) -> None:
        self._serve("pull,push")

    def _serve(self, action: str) -> None:
        scope = f"repository:venvd/venv:{action}"
        allowed = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if allowed.replace("%3A", ":").replace("%2C", ",").replace("%2F", "/") == scope:
            self._answer(202 if action == "pull,push" else 404, b"", Location="/upload")
        else:
            realm = f"http://127.0.0.1:{self.server.server_address[1]}/token"
            self._answer(401, b"", **{"WWW-Authenticate": f'Bearer realm="{realm}",service="registry",scope="{scope}"'})

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def test_tokens_are_asked_for_what_is_done() -> None:
    """A token that allows reading is replaced by one that allows writing, and a wrong password gets none."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_address[1]}"
    try:
        repository = Repository(f"{host}/venvd/venv", credentials=make_credentials(host))
        assert repository.find("tag") is None
        assert repository._request("POST", "blobs/uploads/", {202}).headers["Location"] == "/upload"
        assert repository.find("tag") is None
        stranger = Repository(f"{host}/venvd/venv", credentials=make_credentials(host, "wrong"))
        with pytest.raises(Unavailable, match="refuses the credentials"):
            stranger.find("tag")
    finally:
        server.shutdown()
        server.server_close()
