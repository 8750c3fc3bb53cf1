"""Unused objects of this home on the engine: images of venvs and servers, filled volumes, caches."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import docker.errors

from venvd_contract.resources import Leftover
from venvd_engines import archives
from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient
from venvd_engines.docker.server_images import ServerImages
from venvd_engines.docker.venv_images import VenvImages
from venvd_engines.docker.volumes import FilledVolumes

_KINDS = {labels.ARCHIVE: "worker", labels.TOOLS: "tools", labels.CACHE: "cache"}
"""The kind of leftover by the role of a volume."""


class Leftovers:
    def __init__(self, client: DockerClient, venvs: VenvImages, servers: ServerImages, volumes: FilledVolumes) -> None:
        self._client = client
        self._venvs = venvs
        self._servers = servers
        self._volumes = volumes

    def find(self, used: Collection[str]) -> Iterator[Leftover]:
        """Yield everything that no container uses; `used` are the keys of venvs that stay."""
        for tag, image in self._venvs.list_accepted():
            if self._venvs.key_of(tag) not in used and not self._venvs.list_users(image["Id"]):
                yield Leftover("venv", tag, current=False, sizeBytes=image["Size"])
        current_servers = self._servers.list_current()
        for tag, image in self._servers.list_held():
            if not self._has_containers(image["Id"], self._client.filters()):
                yield Leftover("server", tag, current=tag in current_servers, sizeBytes=image["Size"])
        current_volumes = self._volumes.list_current()
        for role, kind in _KINDS.items():
            for volume in self._client.api.volumes(self._client.filters(role))["Volumes"] or ():
                name = volume["Name"]
                if not self._client.api.containers(all=True, filters={"volume": [name]}):
                    yield Leftover(kind, name, current=name in current_volumes or role == labels.CACHE)
        yield from archives.leftovers(self._client.settings.home / "worker", ())

    def discard(self, leftover: Leftover) -> None:
        """Remove a result of `find`. If it is in use by now, it stays, and this raises the engine's error."""
        if leftover.kind == "venv":
            self._venvs.remove(self._venvs.key_of(leftover.name))
        elif leftover.kind == "server":
            self._servers.release(leftover.name)
        elif leftover.name.startswith("/"):
            archives.remove(leftover.name)
        else:
            self._volumes.remove(leftover.name)

    def _has_containers(self, image: str, owner: dict[str, list[str]]) -> bool:
        """Return whether a container uses the image. `owner` filters the containers; False if the image is absent."""
        try:
            return bool(self._client.api.containers(all=True, filters={"ancestor": [image], **owner}))
        except docker.errors.NotFound:
            return False
