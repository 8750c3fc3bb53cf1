"""Destinations by name: `domain`, `domain:port`, `*.domain` and `*.domain:port`.

A destination without a port means the ports 80 and 443. `*.example.com` means all names below `example.com`, at any
depth, but not `example.com` itself. Clients reach an address only if a destination is that address.
"""

from __future__ import annotations

import ipaddress
import re
from typing import List, NamedTuple, Sequence, Tuple

USUAL_PORTS = (80, 443)
MOST_DESTINATIONS = 200

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_LONGEST_NAME = 253
_ANY_BELOW = "*."


class Destination(NamedTuple):
    """A host, or all hosts below a domain, and the ports that may be reached there."""

    host: str
    ports: Tuple[int, ...]

    def __str__(self) -> str:
        return self.host if self.ports == USUAL_PORTS else ", ".join(write(self.host, port) for port in self.ports)

    def matches(self, host: str, port: int) -> bool:
        """Return whether the destination includes a host, in canonical form, and a port."""
        if port not in self.ports:
            return False
        return host.endswith(self.host[1:]) if self.host.startswith(_ANY_BELOW) else host == self.host


def write(host: str, port: int) -> str:
    """Write a host and a port as one text."""
    return "{}:{}".format("[{}]".format(host) if ":" in host else host, port)


def parse_host(text: str) -> str:
    """Return a host name or an address in its canonical form.

    Raises:
        ValueError: it is neither.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        name = bare.encode("idna").decode("ascii").lower()
    except UnicodeError:
        name = ""
    labels = name[:-1].split(".") if name.endswith(".") else name.split(".")
    last_is_number = labels[-1].isdigit() or labels[-1].startswith("0x")  # a resolver may take it for an address
    if bare != text or last_is_number or len(name) > _LONGEST_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError('"{}" is not the name of a host'.format(text[:80]))
    return ".".join(labels)


def split_port(text: str) -> Tuple[str, int]:
    """Split `host`, `host:port` or `[address]:port`; an absent port is 0.

    Raises:
        ValueError: the port is not a number from 1 to 65535.
    """
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text, 0
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError('"{}": the port is not a number from 1 to 65535'.format(text[:80]))
    return host, int(port)


def parse_destination(text: str, usual_ports: Tuple[int, ...] = USUAL_PORTS) -> Destination:
    """Parse one destination.

    Raises:
        ValueError: it is invalid; the message says why, and shows the valid forms.
    """
    try:
        host, port = split_port(text)
        name = _parse_below(host) if host.startswith(_ANY_BELOW) else parse_host(host)
    except ValueError as error:
        raise ValueError(
            "{}; write example.com, example.com:8080, *.example.com or *.example.com:8080".format(error)
        ) from None
    return Destination(name, (port,) if port else usual_ports)


def _parse_below(pattern: str) -> str:
    name = parse_host(pattern[len(_ANY_BELOW) :])
    if "." not in name or ":" in name or name.replace(".", "").isdigit():
        raise ValueError('"{}" does not name a domain with at least two parts'.format(pattern[:80]))
    return _ANY_BELOW + name


def parse_destinations(texts: Sequence[str]) -> List[Destination]:
    """Parse a list of destinations.

    Raises:
        ValueError: one is wrong, or there are too many.
    """
    if len(texts) > MOST_DESTINATIONS:
        raise ValueError("{} entries exceed the limit of {}".format(len(texts), MOST_DESTINATIONS))
    return [parse_destination(text) for text in texts]
