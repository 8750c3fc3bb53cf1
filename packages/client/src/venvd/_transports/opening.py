"""Chooses the transport for a URL by its scheme."""

from __future__ import annotations

from types import ModuleType

from venvd._async.socket_transport import AsyncHttpTransport
from venvd._net.endpoint import parse
from venvd._sync.socket_transport import HttpTransport
from venvd._transports.base import AsyncTransport, Transport
from venvd._transports.http import HttpCodec
from venvd._transports.pipe import PipeCodec
from venvd._transports.pipe_transport import AsyncPipeTransport, PipeTransport
from venvd.errors import InvalidRequest

_CODECS: dict[str, type[HttpCodec | PipeCodec]] = {"http": HttpCodec, "https": HttpCodec, "unix": PipeCodec}
_RPC_SCHEMES = ("grpc", "grpcs")


def open_transport(url: str, token: str | None, ca: str | None = None) -> Transport:
    """Return the transport for `url`. This sends nothing. `ca` is a file of the authorities to trust.

    Raises:
        InvalidRequest: `url` is not an address with a known scheme, or gRPC is not installed.
    """
    if _is_rpc(url):
        rpc_transport: Transport = _import_rpc().RpcTransport(url, token, ca)
        return rpc_transport
    codec = _make_codec(url, token, ca)
    return PipeTransport(codec) if isinstance(codec, PipeCodec) else HttpTransport(codec)


def open_async_transport(url: str, token: str | None, ca: str | None = None) -> AsyncTransport:
    """Return the transport for `url` for an event loop; see `open_transport`."""
    if _is_rpc(url):
        rpc_transport: AsyncTransport = _import_rpc().AsyncRpcTransport(url, token, ca)
        return rpc_transport
    codec = _make_codec(url, token, ca)
    return AsyncPipeTransport(codec) if isinstance(codec, PipeCodec) else AsyncHttpTransport(codec)


def _make_codec(url: str, token: str | None, ca: str | None) -> HttpCodec | PipeCodec:
    endpoint = parse(url, (*_CODECS, *_RPC_SCHEMES), ca)
    return _CODECS[endpoint.scheme](endpoint, token)


def _is_rpc(url: str) -> bool:
    return url.partition("://")[0] in _RPC_SCHEMES


def _import_rpc() -> ModuleType:
    """Import the transport that needs gRPC, which is an extra."""
    try:
        from venvd._transports import rpc  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise InvalidRequest(f"grpc:// needs the extra of that name: pip install 'venvd[grpc]' ({error})") from None
    return rpc
