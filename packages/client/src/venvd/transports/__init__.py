"""One class per scheme behind one interface: `connect` chooses."""

from __future__ import annotations

from venvd.net.endpoint import parse
from venvd.transports.base import AsyncTransport, Transport, Wire
from venvd.transports.http import HttpWire
from venvd.transports.pipe import PipeWire
from venvd.transports.wired import AsyncWiredTransport, WiredTransport

_WIRES: dict[str, type[Wire]] = {"http": HttpWire, "https": HttpWire, "unix": PipeWire}


def _wire(url: str, token: str | None) -> Wire:
    endpoint = parse(url, tuple(_WIRES))
    return _WIRES[endpoint.scheme](endpoint, token)


def open_transport(url: str, token: str | None) -> Transport:
    """The transport for `url`; nothing is sent yet.

    Raises:
        InvalidRequest: no such scheme, or no address.
    """
    return WiredTransport(_wire(url, token))


def open_async_transport(url: str, token: str | None) -> AsyncTransport:
    """The same for asyncio."""
    return AsyncWiredTransport(_wire(url, token))
