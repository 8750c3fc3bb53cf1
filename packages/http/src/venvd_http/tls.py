"""TLS of an HTTP server: the handshake of each connection, and the renewal of certificates while the server runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from venvd_contract.errors import InvalidRequest
from venvd_contract.watched_file import find_version
from venvd_http.admission import Admission, count_unread, name_peer

if TYPE_CHECKING:
    from uvicorn.server import ServerState

    from venvd_http.connection import HttpConnection

_log = logging.getLogger("venvd.access")

NEEDS_CERTIFICATE = "this server needs a client certificate that an authority in VENVD_TLS_CLIENT_CA has signed"
"""The error for a client without a certificate."""
PAUSE = 1.0
"""Seconds between two checks of the files."""
_GOODBYE_SECONDS = 5.0
"""How long a client may take to confirm the end of a connection."""


@dataclass(frozen=True)
class TlsFiles:
    """The PEM files of a server.

    Attributes:
        cert: its certificate, followed by those of the authorities between it and the root.
        key: its private key, without a password.
        client_ca: authorities; one of them must have signed the certificate of each client. None requires no
            certificate.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


def choose_files(cert: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """Return the files that settings name, or None for a server without TLS.

    Raises:
        ValueError: a file is missing that another one needs.
    """
    if bool(cert) != bool(key):
        raise ValueError("VENVD_TLS_CERT and VENVD_TLS_KEY belong together: set both, or neither")
    if client_ca and not cert:
        raise ValueError("VENVD_TLS_CLIENT_CA needs VENVD_TLS_CERT and VENVD_TLS_KEY")
    return TlsFiles(cert, key, client_ca) if cert and key else None


class Tls:
    """The TLS of one server. Connections that begin after a renewal get the new certificate.

    Attributes:
        files: the PEM files.
        context: the context of the next connection.

    Raises:
        InvalidRequest: the files cannot be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self._seen = self._look()
        self.context = self._create_context()
        self._problem = ""

    @property
    def needs_client_certificate(self) -> bool:
        return self.files.client_ca is not None

    async def watch(self) -> None:
        """Call `refresh` regularly until this task is cancelled."""
        while True:
            await asyncio.sleep(PAUSE)
            self.refresh()

    def refresh(self) -> None:
        """Read the files if they have changed. If they are invalid, the last valid ones stay in use."""
        seen = self._look()
        if seen == self._seen:
            return
        try:
            self.context = self._create_context()
        except InvalidRequest as error:
            if error.message != self._problem:
                self._problem = error.message
                _log.error("%s; the certificate stays as it was", error.message)
        else:
            self._seen, self._problem = seen, ""
            _log.info("%s: new connections get its new certificate", self.files.cert)

    def _look(self) -> list[tuple[int, ...] | None]:
        return [find_version(path) for path in (self.files.cert, self.files.key, self.files.client_ca) if path]

    def _create_context(self) -> ssl.SSLContext:
        files = self.files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(["http/1.1"])
        variable, path = "VENVD_TLS_CERT", files.cert
        try:
            # check one file after the other: the library does not say which one is wrong
            if _BEGIN_CERTIFICATE not in files.cert.read_bytes():
                raise ValueError(_EXPLAINED["NO_CERTIFICATE_OR_CRL_FOUND"])  # noqa: TRY301 - as what the library raises
            variable, path = "VENVD_TLS_KEY", files.key
            files.key.open("rb").close()
            context.load_cert_chain(files.cert, files.key, _refuse_password)
            if files.client_ca is not None:
                variable, path = "VENVD_TLS_CLIENT_CA", files.client_ca
                context.load_verify_locations(files.client_ca)
                # a client without one is refused by the application, which lets probes pass
                context.verify_mode = ssl.CERT_OPTIONAL
        except (OSError, ValueError) as error:
            reason = _EXPLAINED.get(getattr(error, "reason", None) or "") or getattr(error, "strerror", None) or error
            raise InvalidRequest(f"{variable}: {path} cannot be used: {reason}") from None
        return context


_EXPLAINED = {
    "KEY_VALUES_MISMATCH": "it is not the key of the certificate in VENVD_TLS_CERT",
    "NO_CERTIFICATE_OR_CRL_FOUND": "it contains no certificate in PEM form",
}


_BEGIN_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


def _refuse_password() -> str:
    raise ValueError("it has a password, which a server cannot ask for: store the key without a password")


class Handshake(asyncio.Protocol):
    """A connection until the end of its handshake. From the beginning, it counts as an unaccepted connection.

    Args:
        tls: the TLS of the server.
        admission: limits unaccepted connections.
        state: the state of the server; the end of the server ends the handshake.
        create: makes the protocol of the connection after the handshake.
    """

    def __init__(
        self, tls: Tls, admission: Admission, state: ServerState, create: Callable[[], HttpConnection]
    ) -> None:
        self._tls = tls
        self._admission = admission
        self._state = state
        self._create = create

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The loop has read nothing yet. The TLS connection uses a duplicate of the socket, as `start_tls` could lose
        # the first bytes on uvloop.
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        address = transport.get_extra_info("peername")
        cast("asyncio.Transport", transport).abort()
        self._peer = name_peer(address[0]) if address else "unknown"
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        self._admission.enter(self, self._peer)
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn calls its `shutdown` alone
        self._task = loop.create_task(self._shake_hands())

    def has_unread(self) -> bool:
        """Return whether unread bytes of the client are in the kernel."""
        return count_unread(self._socket.fileno()) > 0

    def drop(self, _reason: str) -> None:
        """End the connection, and with it the handshake."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def shutdown(self) -> None:
        """End the connection: the server ends."""
        self.drop("the server ends")

    async def _shake_hands(self) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._create_connection,
                self._socket,
                ssl=self._tls.context,
                ssl_handshake_timeout=self._admission.limits.seconds,
                ssl_shutdown_timeout=_GOODBYE_SECONDS,
            )
        except OSError as error:
            _log.debug("a handshake failed: %s", error, extra={"fields": {"peer": self._peer}})
        finally:
            self._admission.leave(self, self._peer)
            self._state.connections.discard(self)

    def _create_connection(self) -> HttpConnection:
        connection = self._create()
        connection.arrived = self._began
        return connection


def has_client_certificate(transport: asyncio.BaseTransport | None) -> bool:
    """Return whether the client of a connection has a certificate. The handshake has checked it."""
    return transport is not None and bool(transport.get_extra_info("peercert"))
