"""The settings of the gRPC server beside those that every server has."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from venvd_core.settings import BackendSettings
from venvd_http.tls import TlsFiles, choose_files


class RpcSettings(BackendSettings):
    """Environment variables `VENVD_…`; durations in seconds, sizes in bytes."""

    host: str = "0.0.0.0"  # noqa: S104 — the server runs in a container, whose engine decides what is published
    port: int = Field(default=50051, ge=0, le=65535)
    """0 is any free port; the log names it."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """Of probes, metrics and `/rpc/…`."""
    tls_cert: Path | None = None
    """The server's certificate chain, PEM; with `tls_key`. Null serves without TLS. The HTTP port never has it."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM; if set, clients must show a certificate that it has signed."""
    keepalive: float = Field(default=60, gt=0)
    """Between pings to a silent client."""
    keepalive_timeout: float = Field(default=20, gt=0)
    """For the answer to a ping; then the connection is closed and its calls are cancelled."""
    max_calls: int = Field(default=1024, ge=1)
    """Running calls and streams of all clients."""
    max_pipelined: int = Field(default=1024, ge=1)
    """Running and waiting calls of one Session stream; further ones wait unread."""
    max_unread_bytes: int = Field(default=64 << 20, ge=1 << 16)
    """Replies that a client may leave unread on one Session stream; more of them end the stream."""
    stall_timeout: float = Field(default=60, gt=0)
    """How long a peer may pause in the middle of a greeting or, on the HTTP port, of a request."""
    drain: float = Field(default=5, ge=0)
    """For running calls when the server ends."""

    @model_validator(mode="after")
    def _whole(self) -> RpcSettings:
        choose_files(self.tls_cert, self.tls_key, self.tls_client_ca)
        return self

    @property
    def tls_files(self) -> TlsFiles | None:
        return choose_files(self.tls_cert, self.tls_key, self.tls_client_ca)
