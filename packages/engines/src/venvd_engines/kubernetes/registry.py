"""A client of a registry, with what images of venvs need: blobs, manifests and tags."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import docker.auth
import requests
import requests.adapters
import urllib3

from venvd_contract.errors import Internal, NotFound, Unavailable
from venvd_engines.kubernetes.login import Login

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MANIFESTS = (
    OCI_MANIFEST,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_LOOPBACK = ("127.", "localhost", "[::1]")
_SECONDS = (10.0, 120.0)
"""Time-outs: to connect, and between two parts of an answer."""
_RETRIES = urllib3.Retry(3, backoff_factor=0.3, status_forcelist=(502, 503, 504), raise_on_status=False)
"""The retries of requests that change nothing."""
_REMOVED = "dev.venvd.removed"
_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True)
class Found:
    """A manifest: its digest, its media type and its content."""

    digest: str
    media_type: str
    raw: bytes

    @property
    def content(self) -> dict[str, Any]:
        return dict(json.loads(self.raw))


class Repository:
    """One repository of a registry.

    Args:
        name: the name of its images, such as `registry.example.com/venvd/venv`.
        url: the address of the registry, if it is not `https://` and the host of the name.
        credentials: the content of a `.dockerconfigjson`.
        ca_bundle: certificates to trust.
    """

    def __init__(
        self,
        name: str,
        *,
        url: str | None = None,
        credentials: Mapping[str, Any] | None = None,
        ca_bundle: str | None = None,
    ) -> None:
        self.name = name
        self.host, self.path = docker.auth.resolve_repository_name(name)
        if self.host == docker.auth.INDEX_NAME:
            self.path = self.path if "/" in self.path else f"library/{self.path}"
            url = url or "https://registry-1.docker.io"
        address = url or f"{'http' if self.host.startswith(_LOOPBACK) else 'https'}://{self.host}"
        self._url = f"{address.rstrip('/')}/v2/{self.path}/"
        self._session = requests.Session()
        self._session.verify = ca_bundle or True
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=_RETRIES))
        self._login = Login(credentials or {}, self.host)

    def find(self, reference: str) -> Found | None:
        """Find a manifest by tag or digest."""
        headers = {"Accept": ", ".join(MANIFESTS)}
        response = self._request("GET", f"manifests/{reference}", {200, 404}, headers=headers)
        if response.status_code == 404:
            return None
        digest = _hash(response.content)
        manifest = Found(digest, response.headers.get("Content-Type", "").partition(";")[0], response.content)
        if reference.startswith("sha256:") and reference != digest:
            raise Internal(f"the registry {self.host} gave {digest} for {reference}")
        return None if _REMOVED in (manifest.content.get("annotations") or {}) else manifest

    def list_tags(self) -> list[str]:
        """List the first tags, as many as the registry gives at once; none if there is no such repository."""
        response = self._request("GET", "tags/list", {200, 404})
        return list(response.json().get("tags") or ()) if response.ok else []

    def read_blob(self, digest: str) -> bytes:
        """Read a small blob."""
        content = self._open_blob(digest).content
        if _hash(content) != digest:
            raise Internal(f"the registry {self.host} gave {_hash(content)} for {digest}")
        return content

    def _open_blob(self, digest: str) -> requests.Response:
        response = self._request("GET", f"blobs/{digest}", {200, 404}, stream=True)
        if response.status_code == 404:
            raise NotFound(f"the registry {self.host} has no {digest} of {self.path}")
        return response

    def has_blob(self, digest: str) -> bool:
        return self._request("HEAD", f"blobs/{digest}", {200, 404}).status_code == 200

    def copy_blob(self, digest: str, source: Repository) -> None:
        """Copy a blob from another repository. If both are in the same registry, that only links the blob."""
        if self.has_blob(digest):
            return
        location = None
        if source.host == self.host:
            query = {"mount": digest, "from": source.path}
            response = self._request("POST", "blobs/uploads/", {201, 202}, params=query)
            if response.status_code == 201:
                return
            location = response.headers["Location"]
        with tempfile.TemporaryFile() as file:
            with source._open_blob(digest) as blob:
                shutil.copyfileobj(blob.raw, file)
            file.seek(0)
            self._put_blob(digest, file, location)

    def put_blob(self, digest: str, data: Any) -> None:
        """Upload a blob from bytes or an open file."""
        if not self.has_blob(digest):
            self._put_blob(digest, data, None)

    def _put_blob(self, digest: str, data: Any, location: str | None) -> None:
        location = location or self._request("POST", "blobs/uploads/", {202}).headers["Location"]
        headers = {"Content-Type": "application/octet-stream"}
        self._request("PUT", location, {201}, data=data, params={"digest": digest}, headers=headers)

    def put_manifest(self, reference: str, content: bytes, media_type: str) -> None:
        self._request("PUT", f"manifests/{reference}", {201}, data=content, headers={"Content-Type": media_type})

    def remove_tag(self, tag: str) -> None:
        """Remove a tag. Its manifest stays, since other tags may name it."""
        if self._request("DELETE", f"manifests/{tag}", {202, 404, 400, 405}).status_code in {202, 404}:
            return
        # such a registry removes only manifests, with all of their tags: so first give the tag its own manifest
        self.put_blob(_hash(_EMPTY), _EMPTY)
        empty = {"mediaType": _EMPTY_TYPE, "digest": _hash(_EMPTY), "size": len(_EMPTY)}
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": empty, "layers": [empty]}
        content = json.dumps({**manifest, "annotations": {_REMOVED: tag}}).encode()
        self.put_manifest(tag, content, OCI_MANIFEST)
        self._request("DELETE", f"manifests/{_hash(content)}", {202, 404, 403, 405})

    def _request(self, method: str, path: str, accepted: set[int], **options: Any) -> requests.Response:
        url = urljoin(self._url, path)
        # links to the storage behind a registry carry their own authorization
        ours = urlsplit(url).netloc == urlsplit(self._url).netloc
        options["auth"] = self._login if ours else _leave
        try:
            response = self._session.request(method, url, timeout=_SECONDS, **options)
            if response.status_code == 401 and ours and self._login.answer(response, self._session):
                if hasattr(options.get("data"), "seek"):
                    options["data"].seek(0)
                response = self._session.request(method, url, timeout=_SECONDS, **options)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise Unavailable(f"the registry {self.host} does not answer: {type(error).__name__}") from error
        if response.status_code in {401, 403} and response.status_code not in accepted:
            raise Unavailable(f"the registry {self.host} refuses the credentials to {method} in {self.path}")
        if response.status_code not in accepted:
            kind = Unavailable if response.status_code == 429 or response.status_code >= 500 else Internal
            raise kind(f"the registry {self.host} answers {response.status_code} to {method}: {response.text[:500]}")
        return response


def _hash(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _leave(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def read_credentials(path: Path) -> dict[str, Any]:
    """Read a mounted Secret of type `kubernetes.io/dockerconfigjson`. Return an empty dict if there is none."""
    file = path / ".dockerconfigjson"
    return dict(json.loads(file.read_text())) if file.is_file() else {}
