"""The rules of brokers: which names and addresses they let through."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from venvd_egress.addresses import is_reachable, parse_private_networks
from venvd_egress.destinations import MOST_DESTINATIONS, parse_destination, parse_destinations
from venvd_egress.refusal import Refused
from venvd_egress.rules import Rules


@pytest.mark.parametrize(
    ("address", "reachable"),
    [
        ("10.1.2.3", False),
        ("172.31.255.1", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("168.63.129.16", False),
        ("::", False),
        ("::1", False),
        ("fd00::1", False),
        ("fe80::1%eth0", False),
        ("ff02::1", False),
        ("::ffff:169.254.169.254", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("::10.0.0.1", False),
        ("::ffff:0:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("fec0::1", False),
        ("203.0.113.7", True),
        ("8.8.8.8", True),
        ("::ffff:8.8.8.8", True),
        ("172.32.0.1", True),
        ("2606:4700::1111", True),
    ],
)
def test_internal_addresses_are_not_reachable(address: str, *, reachable: bool) -> None:
    """Private, link-local, loopback and multicast addresses are refused, also where IPv6 stands for IPv4."""
    assert is_reachable(address) is reachable


@pytest.mark.parametrize(
    ("address", "reachable"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("10.2.2.3", False),
        ("fd00::1", True),
        ("100.100.100.200", False),
        ("fd00:ec2::254", False),
        ("169.254.169.254", False),
        ("127.0.0.1", False),
    ],
)
def test_named_private_networks_are_reachable(address: str, *, reachable: bool) -> None:
    """An operator's private network is open, and nothing beside it; metadata services in it stay closed."""
    networks = parse_private_networks(["10.1.0.0/16", "fc00::/7", "100.64.0.0/10"])
    assert is_reachable(address, networks) is reachable


@pytest.mark.parametrize(
    "network", ["10.1.0.1/16", "0.0.0.0/0", "127.0.0.0/8", "169.254.0.0/16", "8.8.8.0/24", "::/0", "x"]
)
def test_only_private_networks_can_be_named(network: str) -> None:
    """A network that is none, or lies outside of the private ones, is refused by name."""
    with pytest.raises(ValueError, match=network.replace(".", r"\.")):
        parse_private_networks([network])


@pytest.mark.parametrize(
    ("entry", "host", "port", "matches"),
    [
        ("example.com", "example.com", 443, True),
        ("example.com", "example.com", 80, True),
        ("example.com", "example.com", 22, False),
        ("example.com", "www.example.com", 443, False),
        ("EXAMPLE.com.", "example.com", 443, True),
        ("example.com:8080", "example.com", 8080, True),
        ("example.com:8080", "example.com", 443, False),
        ("*.example.com", "a.example.com", 443, True),
        ("*.example.com", "a.b.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("*.example.com", "badexample.com", 443, False),
        ("*.example.com:8080", "a.example.com", 8080, True),
        ("203.0.113.7", "203.0.113.7", 443, True),
        ("[2001:db8::0:1]:8080", "2001:db8::1", 8080, True),
        ("bücher.example", "xn--bcher-kva.example", 443, True),
    ],
)
def test_destinations_stand_for_hosts_and_ports(entry: str, host: str, port: int, *, matches: bool) -> None:
    """A destination stands for its name and its port, or 80 and 443; a star for all names below it."""
    assert parse_destination(entry).matches(host, port) is matches


@pytest.mark.parametrize(
    "entry",
    [
        *("", "*", "*.", "*.com", "a.*.com", "*example.com", "example.com:", "example.com:0", "example.com:65536"),
        *("http://example.com", "example.com/path", "me@example.com", "a b", "a\r\nb", "a..b", "-a.com", "*.10.0.0.1"),
        *("2130706433", "0x7f.1", "127.1", "example.com:٣", f"{'a' * 64}.com", "[example.com]", "example.com:+80"),
    ],
)
def test_what_is_no_destination_is_refused(entry: str) -> None:
    """What could be read in two ways, or stands for too much, is refused with what would be right."""
    with pytest.raises(ValueError, match=r"write example\.com, example\.com:8080"):
        parse_destination(entry)


def test_a_list_of_destinations_is_bounded() -> None:
    """More than `MOST_DESTINATIONS` are refused."""
    with pytest.raises(ValueError, match=f"exceed the limit of {MOST_DESTINATIONS}"):
        parse_destinations(["example.com"] * (MOST_DESTINATIONS + 1))


def test_a_refusal_says_what_to_add() -> None:
    """A name that is not in the list is refused with the entry that would allow it."""
    rules = Rules(parse_destinations(["example.com"]))
    rules.check("example.com", 443)
    with pytest.raises(Refused, match=r'add "example.org:22" to the list "network"'):
        rules.check("example.org", 22)
    with pytest.raises(Refused, match=r'example.org:443 is not allowed: add "example.org" to'):
        rules.check("example.org", 443)


Answer = Callable[..., list[Any]]


def connect(monkeypatch: pytest.MonkeyPatch, rules: Rules, port: int, *addresses: str) -> None:
    """Connect to a name that a name server answers with one address after the other, or with all at once."""
    asked = []

    def answer(_host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(port)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", answer)

    async def run() -> None:
        (await rules.connect("name.example", port)).close()

    try:
        asyncio.run(run())
    finally:
        assert len(asked) == 1


def test_the_address_that_was_checked_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is resolved once, and an internal one among its addresses is left out."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Refused, match=r"name\.example is 127\.0\.0\.1: the broker refuses") as refused:
            connect(monkeypatch, Rules(), port, "127.0.0.1")
        assert refused.value.kind == "address"
        connect(monkeypatch, Rules(trusted=frozenset({("name.example", port)})), port, "127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1"])
def test_no_connection_is_made_to_an_internal_address(host: str) -> None:
    """Each way to write an address is refused by what it resolves to."""
    with pytest.raises(Refused, match="internal addresses"):
        asyncio.run(Rules().connect(host, 80))
