"""The checks and limits in front of a server. They do not depend on its application."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from venvd_http.admission import Admission, AdmissionLimits
from venvd_http.origin import BrowserGuard
from venvd_http.proxies import TrustedProxies, parse_proxies


class EdgeSettings(Protocol):
    """The settings of an edge; `venvd_core.settings.BackendSettings` has them."""

    @property
    def accept_timeout(self) -> float: ...
    @property
    def max_unaccepted(self) -> int: ...
    @property
    def unaccepted_bytes(self) -> int: ...
    @property
    def allowed_origins(self) -> tuple[str, ...]: ...
    @property
    def trusted_proxies(self) -> tuple[str, ...]: ...


class BackendEdgeSettings(EdgeSettings, Protocol):
    """The settings of the edge of a backend's server."""

    @property
    def token_sha256(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def own_hosts(self) -> tuple[str, ...]: ...
    @property
    def allowed_hosts(self) -> tuple[str, ...]: ...


def read_limits(settings: EdgeSettings) -> AdmissionLimits:
    return AdmissionLimits(settings.accept_timeout, settings.max_unaccepted, settings.unaccepted_bytes)


def read_proxies(settings: EdgeSettings) -> TrustedProxies:
    return TrustedProxies(parse_proxies(settings.trusted_proxies))


@dataclass(frozen=True)
class Edge:
    """The edge of one server.

    Attributes:
        browsers: checks Host and Origin of each request.
        admission: limits connections without an accepted request.
        proxies: the trusted reverse proxies.
    """

    browsers: BrowserGuard = field(default_factory=lambda: BrowserGuard(open_to_all=False))
    admission: Admission = field(default_factory=lambda: Admission(AdmissionLimits()))
    proxies: TrustedProxies = field(default_factory=TrustedProxies)


def create_edge(settings: EdgeSettings) -> Edge:
    """Create the edge of a server that always has a token.

    Raises:
        InvalidRequest: an allowed origin is invalid.
    """
    browsers = BrowserGuard(open_to_all=False, allowed_origins=settings.allowed_origins)
    return Edge(browsers, Admission(read_limits(settings)), read_proxies(settings))


def create_backend_edge(settings: BackendEdgeSettings) -> Edge:
    """Create the edge of a backend's server, which may have no token.

    Raises:
        InvalidRequest: an allowed host or origin is invalid.
    """
    browsers = BrowserGuard(
        open_to_all=not settings.token_sha256,
        own_hosts=(settings.name, *settings.own_hosts),
        allowed_hosts=settings.allowed_hosts,
        allowed_origins=settings.allowed_origins,
    )
    return Edge(browsers, Admission(read_limits(settings)), read_proxies(settings))
