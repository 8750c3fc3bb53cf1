"""The network of a home's backends: outwards only, none of its containers reaches another."""

from __future__ import annotations

import contextlib

import docker.errors

from venvd_engines.docker import labels
from venvd_engines.docker.site import Site


class Networks:
    def __init__(self, site: Site) -> None:
        self._site = site

    @property
    def name(self) -> str:
        return f"venvd-{self._site.settings.home_id}"

    def ensure(self) -> str:
        """The network's name; made where it is absent."""
        try:
            self._site.api.inspect_network(self.name)
        except docker.errors.NotFound:
            with contextlib.suppress(docker.errors.APIError):
                self._create()
            self._site.api.inspect_network(self.name)
        return self.name

    def _create(self) -> None:
        self._site.api.create_network(
            self.name,
            driver="bridge",
            check_duplicate=True,
            options={"com.docker.network.bridge.enable_icc": "false"},
            labels=self._site.labels(labels.NETWORK),
        )

    def sweep(self) -> None:
        """Remove the network where no container of the home is left to use it."""
        if not self._site.api.containers(all=True, filters=self._site.filters()):
            with contextlib.suppress(docker.errors.APIError):
                self._site.api.remove_network(self.name)
