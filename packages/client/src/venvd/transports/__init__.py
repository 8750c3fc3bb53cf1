"""One class per scheme behind one interface: `connect` chooses."""

from __future__ import annotations

from types import ModuleType

from venvd.errors import InvalidRequest
from venvd.net.endpoint import parse
from venvd.transports.base import AsyncTransport, Transport
from venvd.transports.http import HttpWire
from venvd.transports.http_bulk import AsyncHttpTransport, HttpTransport
from venvd.transports.pipe import AsyncPipeTransport, PipeTransport, PipeWire

_WIRES: dict[str, type[HttpWire | PipeWire]] = {"http": HttpWire, "https": HttpWire, "unix": PipeWire}
_RPC_SCHEMES = ("grpc", "grpcs")


def _wire(url: str, token: str | None) -> HttpWire | PipeWire:
    endpoint = parse(url, (*_WIRES, *_RPC_SCHEMES))
    return _WIRES[endpoint.scheme](endpoint, token)


def _is_rpc(url: str) -> bool:
    return url.partition("://")[0] in _RPC_SCHEMES


def _rpc() -> ModuleType:
    """The transport that stands on gRPC, which the core of the client does without."""
    try:
        from venvd.transports import rpc  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise InvalidRequest(f"grpc:// needs the extra of that name: pip install 'venvd[grpc]' ({error})") from None
    return rpc


def open_transport(url: str, token: str | None) -> Transport:
    """The transport for `url`; nothing is sent yet.

    Raises:
        InvalidRequest: no such scheme, no address, or gRPC is not installed.
    """
    if _is_rpc(url):
        made: Transport = _rpc().RpcTransport(url, token)
        return made
    wire = _wire(url, token)
    return PipeTransport(wire) if isinstance(wire, PipeWire) else HttpTransport(wire)


def open_async_transport(url: str, token: str | None) -> AsyncTransport:
    """The same for asyncio."""
    if _is_rpc(url):
        made: AsyncTransport = _rpc().AsyncRpcTransport(url, token)
        return made
    wire = _wire(url, token)
    return AsyncPipeTransport(wire) if isinstance(wire, PipeWire) else AsyncHttpTransport(wire)
