"""Requests that a browser sends for a web page."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from venvd_contract.errors import Forbidden
from venvd_http.heads import Head


def check_origin(head: Head) -> None:
    """Keep web pages away from a server without a token: a browser names the page in `Origin`.

    The server's own pages (`/docs`) pass if it is addressed by IP or as localhost: anyone can point a name here.

    Raises:
        Forbidden: another page sent the request.
    """
    if head.origin is None:
        return
    origin = urlsplit(str(head.origin, "latin-1"))
    if origin.netloc != str(head.host, "latin-1") or not _is_local_name(origin.hostname or ""):
        raise Forbidden("this backend has no token, and so takes no requests from web pages")


def _is_local_name(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
