"""The networks of a home's backends.

In the first one, containers reach the outside but not each other. The second one contains only routers and the servers
behind them; there, routers reach those servers.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import docker.errors

from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient


class Networks:
    """Makes a network for its first container, and removes it after the last: an engine has room for about thirty."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client
        self._name = f"venvd-{client.settings.home_id}"
        self._routed_name = f"{self._name}-routed"
        self._lock = threading.Lock()
        self._starting = 0

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        """Keep the networks while a backend starts: its containers may not exist yet."""
        with self._lock:
            self._starting += 1
        try:
            yield
        finally:
            with self._lock:
                self._starting -= 1

    def ensure(self) -> str:
        """Return the name of the first network; make the network if it is absent."""
        return self._ensure(self._name, options={"com.docker.network.bridge.enable_icc": "false"})

    def ensure_routed(self) -> str:
        """Return the name of the network of routers; make the network if it is absent."""
        return self._ensure(self._routed_name, internal=True)

    def _ensure(self, name: str, **settings: Any) -> str:
        with self._lock:
            try:
                self._client.api.inspect_network(name)
            except docker.errors.NotFound:
                self._client.api.create_network(
                    name,
                    driver="bridge",
                    check_duplicate=True,
                    labels=self._client.labels(labels.NETWORK),
                    **settings,
                )
        return name

    def remove_unused(self) -> None:
        """Remove the networks if no backend uses them and none is starting."""
        backends = {"label": [*self._client.filters()["label"], labels.LAUNCH]}
        with self._lock:
            if self._starting == 0 and not self._client.api.containers(all=True, filters=backends):
                for name in (self._name, self._routed_name):
                    with contextlib.suppress(docker.errors.APIError):
                        self._client.api.remove_network(name)
