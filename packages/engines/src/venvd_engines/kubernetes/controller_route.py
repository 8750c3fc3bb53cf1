"""The address of the controller for the server of a launch. The server does not reach DNS."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from venvd_contract.errors import InvalidRequest, Unavailable
from venvd_engines.engine import Launch
from venvd_engines.kubernetes.settings import KubernetesSettings

CERTIFICATE = "VENVD_CONTROLLER_CA_FILE"
"""The setting of a server that names the file with the certificate of the controller."""


@dataclass(frozen=True)
class ControllerRoute:
    """Where a server reaches the controller.

    Attributes:
        url: the address.
        alias: an entry for the pod's list of hosts; None if the address is an IP address.
        files: the file with the controller's certificate, by the setting of the server; empty without TLS.
    """

    url: str
    alias: Mapping[str, Any] | None
    files: Mapping[str, Path]


def find_controller(options: KubernetesSettings, launch: Launch) -> ControllerRoute | None:
    """Find the address of the controller for the server of a launch; None if the server may not reach it.

    User code shares the network of the pod. Without `network` it has no sockets, so only the server reaches the
    controller. With `network`, only a backend that manages venvs reaches it, and user code reaches that port too.

    Raises:
        InvalidRequest: the backend manages venvs, but may not reach the controller.
        Unavailable: the backend manages venvs, but the name of the controller has no address.
    """
    manages = launch.manages_key is not None
    if manages and launch.network in {"loopback", "destinations"}:
        what = "a list of destinations" if launch.network == "destinations" else "loopback"
        raise InvalidRequest(
            f"manages: with {what} in `network`, user code would reach the controller too, since the containers of a "
            "pod share the network: leave `network` out, or set it to true"
        )
    url = options.controller_url
    if manages and url is None:
        raise InvalidRequest("manages: VENVD_URL of the controller, its address in the cluster, is not set")
    if url is None or launch.router or not (manages or launch.network is False):
        return None
    address = urlsplit(url)
    name = address.hostname or ""
    try:
        number = str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        if not manages:
            return None
        raise Unavailable(f"manages: the name {name} of VENVD_URL has no address: {error.strerror}") from None
    certificate = options.controller_certificate if address.scheme == "https" else None
    return ControllerRoute(
        url=url,
        alias=None if number == name else {"ip": number, "hostnames": [name]},
        files={} if certificate is None else {CERTIFICATE: certificate},
    )
