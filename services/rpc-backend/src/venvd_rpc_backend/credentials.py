"""TLS of the gRPC port: certificate and key, which gRPC asks for at each handshake."""

from __future__ import annotations

import logging
from typing import Any

import grpc

from venvd_http.tls import Tls, TlsFiles

log = logging.getLogger(__name__)


class Certificates:
    """Gives gRPC the files of a server, and again when they have changed. Broken files leave the last good ones in use.

    Raises:
        InvalidRequest: the files cannot be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._tls = Tls(files)
        self._given = self._tls.context

    def create_credentials(self) -> Any:
        """Create the credentials of a port. With a client authority, it refuses clients without a certificate."""
        return grpc.dynamic_ssl_server_credentials(
            self._read(), self._renew, require_client_authentication=self._files.client_ca is not None
        )

    def _renew(self) -> Any:
        """Return the present files; None if gRPC has them. It calls this before each handshake, on its own threads."""
        self._tls.refresh()
        context = self._tls.context
        if context is self._given:
            return None
        try:
            configuration = self._read()
        except OSError:  # they were removed a moment after they were found good
            log.exception("the certificate stays as it was")
            return None
        self._given = context
        return configuration

    def _read(self) -> Any:
        files = self._files
        pair = files.key.read_bytes(), files.cert.read_bytes()
        return grpc.ssl_server_certificate_configuration(
            [pair], root_certificates=files.client_ca.read_bytes() if files.client_ca else None
        )
