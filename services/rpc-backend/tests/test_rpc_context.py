"""What gRPC says of a call beside its messages."""

from __future__ import annotations

import pytest

from venvd_rpc_backend.context import describe_peer


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:50000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:50000", "2001:db8::1"),
        ("ipv6:[::1]:50000", "::1"),
        ("unix:", "unix"),
        ("unix:/run/some:50000", "unix"),
        ("unknown", "unknown"),
    ],
)
def test_the_address_of_a_peer(peer: str, address: str) -> None:
    """The address has neither port nor brackets, as for the other transports."""
    assert describe_peer(peer) == address
