"""The settings of the gRPC server beside those that every server has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from venvd_core.settings import BackendSettings, Count, Port, Seconds, SecondsFromZero
from venvd_http.tls import TlsFiles, choose_files


class RpcSettings(BackendSettings, frozen=True, kw_only=True):
    """Environment variables `VENVD_…`; durations in seconds, sizes in bytes."""

    host: str = "0.0.0.0"  # noqa: S104 — the server runs in a container, and the engine decides which address it publishes
    port: Port = 50051
    """0 picks a free port; the log names it."""
    http_port: Port = 8080
    """The port of probes, metrics and `/rpc/…`."""
    tls_cert: Path | None = None
    """The server's certificate chain, PEM; with `tls_key`. Null serves without TLS. The HTTP port never has it."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM; if set, clients must present a certificate that it has signed."""
    keepalive: Seconds = 60
    """Seconds between pings to a silent client."""
    keepalive_timeout: Seconds = 20
    """Seconds for the answer to a ping; after them, the server closes the connection and cancels its calls."""
    max_calls: Count = 1024
    """Running calls and streams of all clients."""
    max_pipelined: Count = 1024
    """Running and waiting calls of one Session stream; the server reads further ones later."""
    max_unread_bytes: Annotated[int, Meta(ge=1 << 16)] = 64 << 20
    """Replies that a client may leave unread on one Session stream; more of them end the stream."""
    stall_timeout: Seconds = 60
    """Seconds that a peer may pause in the middle of a handshake or, on the HTTP port, of a request."""
    drain: SecondsFromZero = 5
    """Seconds for running calls to end when the server stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choose_files(self.tls_cert, self.tls_key, self.tls_client_ca)

    @property
    def tls_files(self) -> TlsFiles | None:
        return choose_files(self.tls_cert, self.tls_key, self.tls_client_ca)
