"""The addresses that a broker may connect to: those of the internet, and private ones that the operator names."""

from __future__ import annotations

import ipaddress
from typing import List, Sequence, Tuple, Union

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


def _networks(*texts: str) -> Tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


_PRIVATE = _networks("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15", "fc00::/7")
"""Private networks, which an operator may allow."""
_NEVER = _networks(
    *("0.0.0.0/8", "100.100.100.200/32", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "192.0.0.0/24"),
    *("192.88.99.0/24", "224.0.0.0/4", "240.0.0.0/4", "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"),
    *("100::/64", "2001::/32", "2002::/16", "5f00::/16", "fd00:ec2::/32", "fe80::/10", "fec0::/10", "ff00::/8"),
)
"""Loopback, link-local, multicast and reserved addresses, addresses of metadata services and cloud platforms, and IPv6
addresses that contain an IPv4 one. Addresses for documentation are not here, because some sites use them.
"""


def is_reachable(address: str, allowed: Sequence[Network] = ()) -> bool:
    """Return whether a broker may connect to an address; `allowed` are the allowed private networks."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    if mapped is not None:
        ip = mapped
    if _is_in(ip, _NEVER):
        return False
    return _is_in(ip, allowed) or not _is_in(ip, _PRIVATE)


def _is_in(ip: Union[ipaddress.IPv4Address, ipaddress.IPv6Address], networks: Sequence[Network]) -> bool:
    return any(ip.version == network.version and ip in network for network in networks)


def parse_private_networks(texts: Sequence[str]) -> List[Network]:
    """Parse the private networks that an operator allows, such as `10.1.0.0/16`.

    Raises:
        ValueError: one is not a network, or not a private one; the message says which.
    """
    networks: List[Network] = []
    for text in texts:
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            raise ValueError('"{}" is not a network: write it as 10.1.0.0/16, say'.format(text[:80])) from None
        if not any(network.version == each.version and network.subnet_of(each) for each in _PRIVATE):  # type: ignore[arg-type]
            private = ", ".join(map(str, _PRIVATE))
            raise ValueError('"{}" is not within a private network: {}'.format(text[:80], private))
        networks.append(network)
    return networks
