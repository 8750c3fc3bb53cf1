"""The network of a home's backends: containers reach the outside, and not each other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import docker.errors

from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient


class Networks:
    """Makes the network for the first backend and removes it with the last: an engine has room for about thirty."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client
        self._name = f"venvd-{client.settings.home_id}"
        self._lock = threading.Lock()
        self._starting = 0

    @contextlib.contextmanager
    def keep(self) -> Iterator[None]:
        """Do not remove the network while a backend starts whose containers may not exist yet."""
        with self._lock:
            self._starting += 1
        try:
            yield
        finally:
            with self._lock:
                self._starting -= 1

    def ensure(self) -> str:
        """The network's name; made where it is absent."""
        with self._lock:
            try:
                self._client.api.inspect_network(self._name)
            except docker.errors.NotFound:
                self._client.api.create_network(
                    self._name,
                    driver="bridge",
                    check_duplicate=True,
                    options={"com.docker.network.bridge.enable_icc": "false"},
                    labels=self._client.labels(labels.NETWORK),
                )
        return self._name

    def remove_unused(self) -> None:
        """Remove the network where no backend uses it and none is starting."""
        backends = {"label": [*self._client.filters()["label"], labels.LAUNCH]}
        with self._lock:
            if self._starting == 0 and not self._client.api.containers(all=True, filters=backends):
                with contextlib.suppress(docker.errors.APIError):
                    self._client.api.remove_network(self._name)
