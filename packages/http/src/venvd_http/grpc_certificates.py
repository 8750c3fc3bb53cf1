"""TLS of gRPC ports. `Certificates` takes the module `grpc` of its caller, so that other servers need not have it."""

from __future__ import annotations

import logging
from typing import Any

from venvd_http.tls import Tls, TlsFiles

_log = logging.getLogger("venvd.access")


class Certificates:
    """Reads the files of a server for gRPC, and again when they change. Invalid files leave the last valid ones in use.

    Raises:
        InvalidRequest: the files cannot be used.
    """

    def __init__(self, files: TlsFiles, grpc: Any) -> None:
        self._files = files
        self._grpc = grpc
        self._tls = Tls(files)
        self._given = self._tls.context

    def create_credentials(self) -> Any:
        """Create the credentials of a port. With a client authority, it refuses clients without a certificate."""
        asks = self._files.client_ca is not None
        return self._grpc.dynamic_ssl_server_credentials(self._read(), self._renew, require_client_authentication=asks)

    def _renew(self) -> Any:
        """Return the files if they have changed, else None. gRPC calls this before each handshake, on its threads."""
        self._tls.refresh()
        context = self._tls.context
        if context is self._given:
            return None
        try:
            configuration = self._read()
        except OSError:  # the files disappeared after `refresh` had checked them
            _log.exception("the certificate stays as it was")
            return None
        self._given = context
        return configuration

    def _read(self) -> Any:
        files = self._files
        pair = files.key.read_bytes(), files.cert.read_bytes()
        authority = files.client_ca.read_bytes() if files.client_ca else None
        return self._grpc.ssl_server_certificate_configuration([pair], root_certificates=authority)
