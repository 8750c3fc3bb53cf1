"""Trusted reverse proxies: the address of a client behind them, from `X-Forwarded-For`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

HEADER = b"x-forwarded-for"
_MOST_HOPS = 32
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """The proxies whose `X-Forwarded-For` the server trusts.

    Args:
        networks: their networks, from `parse_proxies`.
    """

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = networks

    def trusts(self, address: str) -> bool:
        """Return whether an address is one of these proxies."""
        parsed = _parse_address(address) if self._networks else None
        return parsed is not None and self._has(parsed)

    def find_client(self, peer: str, forwarded: Iterable[str]) -> str:
        """Find the client of a request.

        Each proxy appends the address of its own client. So the right-most address that is not a trusted proxy is the
        client; the client itself may have written the addresses before it. An invalid address ends the search, and the
        proxy that appended it counts as the client.

        Args:
            peer: the address of the connection.
            forwarded: the values of `X-Forwarded-For`, in their order.
        """
        if not self.trusts(peer):
            return peer
        client = peer
        for text in reversed(",".join(forwarded).rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]):
            parsed = _parse_address(_drop_port(text.strip()))
            if parsed is None:
                break
            client = str(parsed)
            if not self._has(parsed):
                break
        return client

    def _has(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._networks)


def parse_proxies(texts: Sequence[str]) -> list[Network]:
    """Parse addresses and networks of proxies.

    Raises:
        ValueError: one is neither, or contains every address; the message says which.
    """
    networks: list[Network] = []
    for text in texts:
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            raise ValueError(
                f'"{text[:80]}" is neither an address nor a network: write 10.0.0.7, or 10.0.0.0/24 for all of these'
            ) from None
        if network.prefixlen == 0:
            raise ValueError(f'"{text[:80]}" contains every address, so each client could claim any: name the proxies')
        networks.append(network)
    return networks


def _parse_address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _drop_port(text: str) -> str:
    """Return `192.0.2.1` of `192.0.2.1:50000`, and `2001:db8::1` of `[2001:db8::1]:50000`."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def parse_grpc_peer(peer: str) -> str:
    """Return the address of a peer as gRPC writes it: `ipv4:192.0.2.1:50000`, `ipv6:%5B::1%5D:50000`, `unix:`."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else kind
