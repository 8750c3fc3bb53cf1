"""The network of a home's backends: outwards only, none of its containers reaches another."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import docker.errors

from venvd_engines.docker import labels
from venvd_engines.docker.site import Site


class Networks:
    """Makes the network with the first backend and removes it with the last: an engine has room for some thirty."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._starting = 0

    @property
    def name(self) -> str:
        return f"venvd-{self._site.settings.home_id}"

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """The network is not removed meanwhile: a start is under way that may not yet show."""
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
                self._site.api.inspect_network(self.name)
            except docker.errors.NotFound:
                self._create()
        return self.name

    def _create(self) -> None:
        self._site.api.create_network(
            self.name,
            driver="bridge",
            check_duplicate=True,
            options={"com.docker.network.bridge.enable_icc": "false"},
            labels=self._site.labels(labels.NETWORK),
        )

    def release(self) -> None:
        """Remove the network where no backend is left, and none starts, to use it."""
        with self._lock:
            if self._starting == 0 and not self._site.api.containers(all=True, filters=self._backends()):
                with contextlib.suppress(docker.errors.APIError):
                    self._site.api.remove_network(self.name)

    def _backends(self) -> dict[str, list[str]]:
        return {"label": [*self._site.filters()["label"], labels.LAUNCH]}
