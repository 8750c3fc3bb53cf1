"""The settings of the HTTP server: those of every server, and where it listens."""

from __future__ import annotations

from pathlib import Path

from venvd_core.settings import BackendSettings, Flag, Port, Seconds
from venvd_http.tls import TlsFiles, choose_files


class HttpSettings(BackendSettings, frozen=True, kw_only=True):
    host: str = "0.0.0.0"  # noqa: S104 — in its container; what is published is the engine's matter
    port: Port = 5678
    stall_timeout: Seconds = 60
    """Seconds that a request's head may take, that its body may pause, and that answers may lie unread."""
    open_docs: Flag = True
    """Whether `/docs` and `/openapi.json` need no token."""
    tls_cert: Path | None = None
    """The server's certificate chain, PEM; with `tls_key`. Null serves without TLS."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM; if set, clients must show a certificate that it has signed. Probes need none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choose_files(self.tls_cert, self.tls_key, self.tls_client_ca)

    @property
    def tls_files(self) -> TlsFiles | None:
        return choose_files(self.tls_cert, self.tls_key, self.tls_client_ca)
