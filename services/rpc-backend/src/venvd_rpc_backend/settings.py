"""The settings of the gRPC server beside those that every server has."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from venvd_core.settings import BackendSettings


class RpcSettings(BackendSettings):
    """Environment variables `VENVD_…`; durations in seconds, sizes in bytes."""

    host: str = "0.0.0.0"  # noqa: S104 — in a container; what is published is another matter
    port: int = Field(default=50051, ge=0, le=65535)
    """0 is any free port, which the log names."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """Of probes, metrics and `/rpc/…`."""
    tls_cert: Path | None = None
    """The server's certificate chain, PEM; with `tls_key`. Null serves without TLS. The HTTP port never has it."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM; where it is given, clients must show a certificate that it signed."""
    keepalive: float = Field(default=60, gt=0)
    """Between pings to a client of which nothing is heard."""
    keepalive_timeout: float = Field(default=20, gt=0)
    """For its answer, before the connection is taken for dead and its calls are cancelled."""
    max_calls: int = Field(default=1024, ge=1)
    """Calls and streams under way, of all clients."""
    max_pipelined: int = Field(default=1024, ge=1)
    """Calls under way on one Session stream; further ones wait unread."""
    max_unread_bytes: int = Field(default=64 << 20, ge=1 << 16)
    """Replies that a client may leave unread on one Session stream; more ends the stream."""
    stall_timeout: float = Field(default=60, gt=0)
    """Of a peer in the middle of a greeting or, on the HTTP port, of a request, that does nothing."""
    drain: float = Field(default=5, ge=0)
    """For running calls when the server is asked to end."""

    @model_validator(mode="after")
    def _whole(self) -> RpcSettings:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("VENVD_TLS_CERT and VENVD_TLS_KEY need each other")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("VENVD_TLS_CLIENT_CA needs VENVD_TLS_CERT and VENVD_TLS_KEY")
        return self
