"""The rules of one broker: the allowed destinations and private networks, and the headers that it adds."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from typing import Any, FrozenSet, Mapping, Optional, Sequence, Tuple

from venvd_egress.addresses import Network, is_reachable, parse_private_networks
from venvd_egress.destinations import Destination, parse_destination, parse_destinations, write
from venvd_egress.heads import Fields
from venvd_egress.refusal import Refused
from venvd_egress.upstream import Upstream, parse_upstream

_CONNECT_SECONDS = 20.0


@dataclass(frozen=True)
class AddedHeader:
    """A header that the broker adds to requests for some hosts. It sends these requests by HTTPS."""

    name: str
    value: str = field(repr=False)
    hosts: Sequence[Destination]

    def find_port(self, host: str, port: int) -> Optional[int]:
        """Return the port of HTTPS for a request to `http://host:port`, or None if the header is for other hosts."""
        port = 443 if port == 80 else port
        return port if any(each.matches(host, port) for each in self.hosts) else None


@dataclass(frozen=True)
class Rules:
    """The rules of one broker.

    Attributes:
        destinations: the destinations that clients may reach; None is every name.
        networks: private networks that destinations may be in.
        trusted: hosts and ports that may have any address.
        headers: the headers that the broker adds.
        upstream: the broker that makes the connections; None: this one makes them.
    """

    destinations: Optional[Sequence[Destination]] = None
    networks: Sequence[Network] = ()
    trusted: FrozenSet[Tuple[str, int]] = frozenset()
    headers: Sequence[AddedHeader] = ()
    upstream: Optional[Upstream] = None

    def check(self, host: str, port: int) -> None:
        """Check a destination by name.

        Raises:
            Refused: clients may not reach it.
        """
        if self.destinations is None or any(each.matches(host, port) for each in self.destinations):
            return
        wanted = host if port in (80, 443) else write(host, port)
        reason = '{} is not allowed: add "{}" to the list "network" of the backend or its venv'
        raise Refused(host, port, "destination", reason.format(write(host, port), wanted))

    def find_headers(self, host: str, port: int) -> Tuple[Optional[int], Fields]:
        """Return the port of HTTPS for a request to `http://host:port` (None without headers), and the headers."""
        chosen_port: Optional[int] = None
        fields: Fields = []
        for header in self.headers:
            secure_port = header.find_port(host, port)
            if secure_port is not None:
                chosen_port = secure_port
                fields.append((header.name, header.value))
        return chosen_port, fields

    async def connect(self, host: str, port: int) -> socket.socket:
        """Connect to a destination at a checked address.

        Raises:
            Refused: the destination has no allowed address, or none of its addresses answers.
        """
        if self.upstream is not None:
            return await self.upstream.connect(host, port)
        loop = asyncio.get_running_loop()
        try:
            answers = await asyncio.wait_for(
                loop.getaddrinfo(host, port, type=socket.SOCK_STREAM), timeout=_CONNECT_SECONDS
            )
        except (OSError, UnicodeError, asyncio.TimeoutError) as error:
            raise Refused(host, port, "unreachable", "{} cannot be resolved: {}".format(host, error)) from None
        addresses = {str(answer[4][0]): answer for answer in answers}
        trusted = (host, port) in self.trusted
        usable = [answer for address, answer in addresses.items() if trusted or is_reachable(address, self.networks)]
        if not usable:
            reason = "{} is {}: the broker refuses internal addresses".format(host, ", ".join(addresses))
            raise Refused(host, port, "address", reason)
        problem: Any = None
        for family, kind, protocol, _, address in usable:
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            try:
                # the address is numeric, so the name is not resolved a second time
                await asyncio.wait_for(loop.sock_connect(sock, address), timeout=_CONNECT_SECONDS)
            except (OSError, asyncio.TimeoutError) as error:
                sock.close()
                problem = error or "it took longer than {:g} s".format(_CONNECT_SECONDS)
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise Refused(host, port, "unreachable", "{} does not answer: {}".format(write(host, port), problem))


def parse_header(given: Mapping[str, Any]) -> AddedHeader:
    """Parse `{"name", "value", "hosts"}`; a host without a port has 443.

    Raises:
        ValueError: a host is wrong.
    """
    hosts = [parse_destination(host, (443,)) for host in given["hosts"]]
    return AddedHeader(given["name"], given["value"], hosts)


def parse_rules(given: Mapping[str, Any]) -> Rules:
    """Parse the rules of a backend's broker: `{"destinations", "networks", "headers", "upstream"}`.

    Raises:
        ValueError: an entry is wrong; the message says which.
    """
    upstream = given.get("upstream")
    return Rules(
        parse_destinations(given["destinations"]),
        parse_private_networks(given["networks"]),
        headers=[parse_header(header) for header in given.get("headers", ())],
        upstream=parse_upstream(upstream) if upstream else None,
    )
