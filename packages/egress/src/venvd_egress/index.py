"""The package index of builds. The broker sends it credentials that its clients never see."""

from __future__ import annotations

import base64
import ssl
from typing import Optional
from urllib.parse import unquote, urlsplit

from venvd_egress.heads import Fields

PORT = 3128
"""The port of the forwarder on loopback, which clients use in place of the index."""


class Index:
    """The address of the index, and its credentials."""

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        netloc = parts.netloc.rpartition("@")[2]
        secure = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if secure else 80)
        self.tls = tls if secure else None
        self.headers: Fields = [("Host", netloc), ("Accept-Encoding", "identity")]
        if parts.username is not None:
            credentials = "{}:{}".format(unquote(parts.username), unquote(parts.password or ""))
            value = "Basic {}".format(base64.b64encode(credentials.encode()).decode())
            self.headers.append(("Authorization", value))
        self._origin = "{}://{}/".format(parts.scheme, netloc)
        self._local = "http://127.0.0.1:{}/".format(PORT)

    def localize(self, fields: Fields, page: Optional[bytes]) -> Optional[bytes]:
        """Replace the address of the index by that of the forwarder, in headers and in a page.

        Without a page, return empty bytes if the answer is a page, else None.
        """
        if page is not None:
            return page.replace(self._origin.encode(), self._local.encode())
        fields[:] = [(name, value.replace(self._origin, self._local)) for name, value in fields]
        kinds = [value.partition(";")[0].strip().lower() for name, value in fields if name.lower() == "content-type"]
        return b"" if any(map(_is_page, kinds)) else None


def _is_page(kind: str) -> bool:
    return kind == "text/html" or (kind.startswith("application/vnd.") and ".simple." in kind)


def make_local_url(url: str) -> str:
    """Return the address of the index for clients of the forwarder, without credentials."""
    parts = urlsplit(url)
    return "http://127.0.0.1:{}{}{}".format(PORT, parts.path or "/", "?" + parts.query if parts.query else "")
