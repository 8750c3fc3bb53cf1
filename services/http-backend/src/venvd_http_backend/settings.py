"""The settings of the HTTP server: those of every server, and its own."""

from __future__ import annotations

from pathlib import Path

from venvd_core.settings import BackendSettings, Flag, Port, Seconds
from venvd_http.tls import TlsFiles, choose_files


class HttpSettings(BackendSettings, frozen=True, kw_only=True):
    host: str = "0.0.0.0"  # noqa: S104 — the server runs in a container, and the engine decides which address it publishes
    port: Port = 5678
    stall_timeout: Seconds = 60
    """Seconds for a request's head, for a pause in its body, and for a client to read a response."""
    open_docs: Flag = True
    """Whether `/docs` and `/openapi.json` need no token."""
    tls_cert: Path | None = None
    """The server's certificate chain, PEM; with `tls_key`. Null serves without TLS."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM; if set, clients must present a certificate that it has signed. Probes need none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choose_files(self.tls_cert, self.tls_key, self.tls_client_ca)

    @property
    def tls_files(self) -> TlsFiles | None:
        return choose_files(self.tls_cert, self.tls_key, self.tls_client_ca)
