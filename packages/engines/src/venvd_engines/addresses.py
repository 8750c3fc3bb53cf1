"""Addresses that servers listen on, as clients on this machine name them."""

from __future__ import annotations

import ipaddress


def url_host(host: str) -> str:
    """Return the host part of a URL for a server that listens on `host`: loopback if it listens on every address."""
    try:
        address = ipaddress.ip_address(host or "0.0.0.0")  # noqa: S104 - names every address, opens nothing
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return f"[{address}]" if address.version == 6 else str(address)
