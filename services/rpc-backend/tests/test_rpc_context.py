"""What gRPC says of a call beside its messages."""

from __future__ import annotations

import pytest

from venvd_contract.errors import InvalidRequest
from venvd_http.proxies import parse_grpc_peer
from venvd_rpc_backend.context import read_metadata


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
    assert parse_grpc_peer(peer) == address


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("x-venvd-sesion", 'is "x-venvd-session" meant?'),
        ("x-venvd-timeout", "a timeout is the deadline of the call"),
        ("x-venvd-q", "is unknown"),
    ],
)
def test_unknown_metadata(key: str, says: str) -> None:
    """Metadata with the prefix of venvd's own are refused where they mean nothing; others belong to the client."""
    with pytest.raises(InvalidRequest, match=key) as raised:
        read_metadata([(key, "1")])
    assert says in raised.value.message
    assert read_metadata([("user-agent", "x"), ("x-trace", "y"), ("x-venvd-session", "s")]).session == "s"
