"""A registry, as far as images of venvs need it: blobs and manifests, over the client of ORAS."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import oras.container
import oras.provider
import requests

from venvd_contract.errors import Internal, Unavailable

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_LOOPBACK = ("127.", "localhost", "[::1]")


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
        name: of images, such as `registry.example.com/venvd/venv`.
        url: the address of the registry, where it is not `https://` and the host of the name.
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
        container = oras.container.Container(name)
        self.name = name
        self.host = str(container.registry)
        self.path = str(container.api_prefix)
        parts = urlsplit(url or f"{'http' if self.host.startswith(_LOOPBACK) else 'https'}://{self.host}")
        self._url = f"{parts.scheme}://{parts.netloc}/v2/{self.path}"
        self._client = oras.provider.Registry(
            parts.netloc, insecure=parts.scheme == "http", tls_verify=ca_bundle or True
        )
        user, password = _find_login(credentials or {}, {self.host, parts.netloc})
        if user:
            self._client.auth.set_basic_auth(user, password)

    def find(self, reference: str) -> Found | None:
        """Find a manifest by tag or digest."""
        headers = {"Accept": ", ".join(MANIFESTS)}
        response = self._request("GET", f"manifests/{reference}", {200, 404}, headers=headers)
        if response.status_code == 404:
            return None
        digest = response.headers.get("Docker-Content-Digest", "")
        return Found(digest, response.headers.get("Content-Type", "").partition(";")[0], response.content)

    def read_blob(self, digest: str) -> bytes:
        return bytes(self._request("GET", f"blobs/{digest}", {200}).content)

    def open_blob(self, digest: str) -> requests.Response:
        """Request a blob; the response streams it."""
        return self._request("GET", f"blobs/{digest}", {200}, stream=True)

    def has_blob(self, digest: str) -> bool:
        return self._request("HEAD", f"blobs/{digest}", {200, 404}).status_code == 200

    def copy_blob(self, digest: str, source: Repository) -> None:
        """Take a blob over from another repository; one of the same registry only links it."""
        if self.has_blob(digest):
            return
        location = None
        if source.host == self.host:
            response = self._request("POST", f"blobs/uploads/?mount={digest}&from={source.path}", {201, 202})
            if response.status_code == 201:
                return
            location = response.headers["Location"]
        with source.open_blob(digest) as blob:
            self._put_blob(digest, blob.raw, location)

    def put_blob(self, digest: str, data: Any) -> None:
        """Upload a blob from bytes or an open file."""
        if not self.has_blob(digest):
            self._put_blob(digest, data, None)

    def _put_blob(self, digest: str, data: Any, location: str | None) -> None:
        location = location or self._request("POST", "blobs/uploads/", {202}).headers["Location"]
        if not urlsplit(location).netloc:
            parts = urlsplit(self._url)
            location = f"{parts.scheme}://{parts.netloc}{location}"
        url = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        headers = {"Content-Type": "application/octet-stream"}
        self._request("PUT", url, {201}, data=data, headers=headers)

    def put_manifest(self, reference: str, content: bytes, media_type: str) -> None:
        self._request("PUT", f"manifests/{reference}", {201}, data=content, headers={"Content-Type": media_type})

    def delete(self, digest: str) -> bool:
        """Delete a manifest; False where the registry does not do that."""
        return self._request("DELETE", f"manifests/{digest}", {202, 404, 405, 403}).status_code in {202, 404}

    def _request(self, method: str, path: str, accepted: set[int], **options: Any) -> requests.Response:
        url = path if path.startswith("http") else f"{self._url}/{path}"
        try:
            response: requests.Response = self._client.do_request(url, method, **options)
        except requests.RequestException as error:
            raise Unavailable(f"the registry {self.host} does not answer: {type(error).__name__}") from error
        except ValueError as error:
            raise Unavailable(f"the registry {self.host} refuses the credentials: {error}") from error
        if response.status_code not in accepted:
            kind = Unavailable if response.status_code in {401, 403, 429} or response.status_code >= 500 else Internal
            raise kind(f"the registry {self.host} answers {response.status_code} to {method}: {response.text[:500]}")
        return response


def read_credentials(path: Path) -> dict[str, Any]:
    """Read a mounted Secret of type `kubernetes.io/dockerconfigjson`; empty where there is none."""
    file = path / ".dockerconfigjson"
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _find_login(credentials: Mapping[str, Any], hosts: set[str]) -> tuple[str, str]:
    for name, entry in (credentials.get("auths") or {}).items():
        if name.removeprefix("https://").removeprefix("http://").partition("/")[0] in hosts:
            if entry.get("auth"):
                user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
                return user, password
            return entry.get("username", ""), entry.get("password", "")
    return "", ""
