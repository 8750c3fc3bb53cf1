"""What this home keeps on the engine and nothing uses: images of venvs and servers, filled volumes, caches."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import docker.errors

from venvd_contract.resources import Leftover
from venvd_engines import archives
from venvd_engines.docker import labels
from venvd_engines.docker.servers import Servers
from venvd_engines.docker.site import Site
from venvd_engines.docker.venvs import Venvs
from venvd_engines.docker.volumes import FilledVolumes

_ROLES = {labels.ARCHIVE: "worker", labels.TOOLS: "tools", labels.CACHE: "cache"}
"""Roles of volumes, and what is said of them."""


class Leftovers:
    def __init__(self, site: Site, venvs: Venvs, servers: Servers, volumes: FilledVolumes) -> None:
        self._site = site
        self._venvs = venvs
        self._servers = servers
        self._volumes = volumes

    def find(self, used: Collection[str]) -> Iterator[Leftover]:
        yield from self._images(used)
        yield from self._server_images()
        yield from self._filled()
        yield from archives.leftovers(self._site.settings.home / "worker", ())

    def discard(self, leftover: Leftover) -> None:
        """Remove one that `find` gave; one that is used meanwhile stays, and is an error of the engine's."""
        if leftover.kind == "venv":
            self._venvs.remove(self._venvs.key(leftover.name))
        elif leftover.kind == "server":
            self._servers.release(leftover.name)
        elif leftover.name.startswith("/"):
            archives.remove(leftover.name)
        else:
            self._volumes.remove(leftover.name)

    def _images(self, used: Collection[str]) -> Iterator[Leftover]:
        for tag, image in self._venvs.accepted():
            if self._venvs.key(tag) not in used and not self._has_containers(image["Id"], everybody=True):
                yield Leftover("venv", tag, current=False, sizeBytes=image["Size"])

    def _server_images(self) -> Iterator[Leftover]:
        current = self._servers.current()
        for tag, image in self._servers.held():
            if not self._has_containers(image["Id"], everybody=False):
                yield Leftover("server", tag, current=tag in current, sizeBytes=image["Size"])

    def _filled(self) -> Iterator[Leftover]:
        known = self._volumes.known()
        for role, kind in _ROLES.items():
            for volume in self._site.api.volumes(self._site.filters(role))["Volumes"] or ():
                name = volume["Name"]
                if not self._site.api.containers(all=True, filters={"volume": [name]}):
                    yield Leftover(kind, name, current=name in known or role == labels.CACHE)

    def _has_containers(self, image: str, *, everybody: bool) -> bool:
        """Whether a container, of this home or of anybody, is one of the image."""
        owned = {} if everybody else self._site.filters()
        found = False
        with contextlib.suppress(docker.errors.NotFound):  # the image is gone
            found = bool(self._site.api.containers(all=True, filters={"ancestor": [image], **owned}))
        return found
