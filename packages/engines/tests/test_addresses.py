from __future__ import annotations

import pytest

from venvd_engines.addresses import url_host


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("192.0.2.7", "192.0.2.7"),
        ("", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("host", "host"),
    ],
)
def test_a_url_names_an_address_that_can_be_reached(host: str, shown: str) -> None:
    """Loopback reaches a server that listens on every address; brackets surround IPv6 addresses."""
    assert url_host(host) == shown
