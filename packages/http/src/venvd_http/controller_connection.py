"""HTTP to the controller for threads, over its Unix socket or at its address."""

from __future__ import annotations

import http.client
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

_LONGEST_ADDRESS = 100


class ControllerSettings(Protocol):
    """The settings of an address; `venvd_core.settings.BackendSettings` has them."""

    @property
    def controller_socket(self) -> Path | None: ...
    @property
    def controller_url(self) -> str | None: ...
    @property
    def controller_ca_file(self) -> Path | None: ...


@dataclass(frozen=True)
class ControllerAddress:
    """Where a server reaches its controller.

    Attributes:
        path: the Unix socket; None where there is none.
        url: `http://…` or `https://…`, where there is no socket; None: nowhere.
        certificate: the file with the certificate that the controller shows at that address, which may be renewed.
    """

    path: Path | None = None
    url: str | None = None
    certificate: Path | None = None

    def connect(self, timeout: float) -> ControllerConnection | None:
        """Make a connection, which its first request opens; None where there is no address.

        Args:
            timeout: seconds in which the controller must answer.
        """
        if self.path is not None:
            return UnixConnection(self.path, timeout)
        return None if self.url is None else NetworkConnection(self.url, self.certificate, timeout)


def read_controller_address(settings: ControllerSettings) -> ControllerAddress:
    return ControllerAddress(settings.controller_socket, settings.controller_url, settings.controller_ca_file)


class ControllerConnection(http.client.HTTPConnection):
    """A connection to the controller. Another thread may end it."""

    def __init__(self, host: str, timeout: float) -> None:
        super().__init__(host, timeout=timeout)
        self._open_socket: socket.socket | None = None
        self._ended = False

    def connect(self) -> None:
        self._connect()
        if self._ended:  # before there was a connection to end
            raise ConnectionAbortedError("the client went away")

    def _connect(self) -> None:
        raise NotImplementedError

    def hang_up(self) -> None:
        """End the connection for the thread that uses it, and closes it."""
        self._ended = True
        if self._open_socket is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._open_socket, socket.SHUT_RDWR)  # that of TLS would drop its state first


class UnixConnection(ControllerConnection):
    """A connection to the controller that listens at a path of any length."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout)
        self._path = path

    def _connect(self) -> None:
        self.sock = self._open_socket = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        if len(os.fsencode(self._path)) <= _LONGEST_ADDRESS:
            self.sock.connect(os.fspath(self._path))
            return
        # a long path is reached through its directory: the address of a socket has room for 107 bytes
        directory = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock.connect(f"/proc/self/fd/{directory}/{self._path.name}")
        finally:
            os.close(directory)


class NetworkConnection(ControllerConnection):
    """A connection to the controller at an address; with TLS, the controller shows the given certificate."""

    def __init__(self, url: str, certificate: Path | None, timeout: float) -> None:
        address = urlsplit(url)
        super().__init__(address.netloc, timeout)
        self._secure = address.scheme == "https"
        self._target = (address.hostname or "", address.port or (443 if self._secure else 80))
        self._certificate = certificate

    def _connect(self) -> None:
        self.sock = self._open_socket = socket.create_connection(self._target, self.timeout)
        if self._secure:
            self._begin_tls()

    def _begin_tls(self) -> None:
        import ssl  # noqa: PLC0415 - most servers have no use for it

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is trusted, and no authority
        context.load_verify_locations(self._certificate)
        wrapped = context.wrap_socket(self.sock, server_hostname=self._target[0], do_handshake_on_connect=False)
        self.sock = self._open_socket = wrapped
        wrapped.do_handshake()
