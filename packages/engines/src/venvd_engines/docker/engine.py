"""The docker engine: images through a build container, backends as pairs of hardened containers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from venvd_contract.errors import Unavailable
from venvd_contract.resources import Leftover, LogLine
from venvd_engines.docker.backends import Backends
from venvd_engines.docker.bases import Bases
from venvd_engines.docker.build_container import BuildContainers
from venvd_engines.docker.leftovers import Leftovers
from venvd_engines.docker.networks import Networks
from venvd_engines.docker.servers import Servers
from venvd_engines.docker.site import Site
from venvd_engines.docker.sockets import SocketDirectories
from venvd_engines.docker.translation import translated
from venvd_engines.docker.venvs import Venvs
from venvd_engines.docker.volumes import FilledVolumes
from venvd_engines.engine import (
    BackendState,
    Capabilities,
    EngineSettings,
    Image,
    Launch,
    LaunchRecord,
    Owned,
    Progress,
    RuntimeRef,
    VenvBuild,
)

OLDEST_API = (1, 41)
"""Of Docker Engine 20.10."""


class DockerEngine:
    """Runs on the Docker Engine that DOCKER_HOST names, by default this machine's; implements `Engine`."""

    name = "docker"

    def __init__(self, settings: EngineSettings) -> None:
        self._site = Site(settings)
        self._bases = Bases(self._site)
        self._volumes = FilledVolumes(self._site)
        self._networks = Networks(self._site)
        containers = BuildContainers(self._site, self._volumes)
        self._servers = Servers(self._site, self._bases, containers)
        self._venvs = Venvs(self._site, self._bases, containers)
        self._leftovers = Leftovers(self._site, self._venvs, self._servers, self._volumes)
        directories = SocketDirectories(self._site)
        self._backends = Backends(self._site, self._servers, self._volumes, self._networks, directories)

    @translated("say that it is there")
    def check(self) -> None:
        said = self._site.api.version()
        if tuple(int(part) for part in said["ApiVersion"].split(".")) < OLDEST_API:
            raise Unavailable(f"Docker Engine {said['Version']} is too old: 20.10 or newer is needed")
        self._check_runtime()

    def _check_runtime(self) -> None:
        wanted = self._site.settings.oci_runtime
        if wanted is None:
            return
        known = self._site.api.info().get("Runtimes") or {}
        if wanted not in known:
            raise Unavailable(
                f'VENVD_OCI_RUNTIME is "{wanted}": the Docker Engine has no such OCI runtime; '
                f"it has {', '.join(sorted(known))}"
            )

    def capabilities(self) -> Capabilities:
        return Capabilities(
            apt_packages=True, network_isolation=True, filesystem_isolation=True, memory_wall=True, attach=True
        )

    @translated("find the runtime")
    def resolve(self, version: str, progress: Progress) -> RuntimeRef:
        return self._bases.resolve(version, progress)

    @translated("lock the requirements")
    def lock(self, runtime: RuntimeRef, requirements: Sequence[str], progress: Progress) -> str:
        return self._venvs.lock(runtime, requirements, progress)

    @translated("build the venv")
    def build(self, venv: VenvBuild, progress: Progress) -> Image:
        return self._venvs.build(venv, progress)

    @translated("look for an image")
    def find_image(self, key: str) -> Image | None:
        return self._venvs.find(key)

    @translated("remove an image")
    def remove_image(self, key: str) -> None:
        self._venvs.remove(key)

    @translated("prepare the server's image")
    def prepare(self, backend_type: str, progress: Progress) -> None:
        self._servers.ensure(backend_type, progress)

    @translated("start the backend")
    def start(self, launch: Launch, progress: Progress) -> LaunchRecord:
        return self._backends.start(launch, progress)

    @translated("inspect the backend")
    def inspect(self, record: LaunchRecord) -> BackendState:
        return self._backends.inspect(record)

    @translated("stop the backend")
    def stop(self, record: LaunchRecord, grace: float) -> None:
        self._backends.stop(record, grace)

    @translated("remove the backend")
    def destroy(self, record: LaunchRecord, *, again: bool = False) -> None:
        self._backends.destroy(record, again=again)

    @translated("remove the backend")
    def destroy_owned(self, owned: Owned) -> None:
        self._backends.destroy_owned(owned)

    @translated("list the backends")
    def list_owned(self) -> Sequence[Owned]:
        return self._backends.list_owned()

    @translated("look for what nothing uses")
    def leftovers(self, used: Collection[str]) -> Sequence[Leftover]:
        return list(self._leftovers.find(used))

    @translated("remove what nothing uses")
    def discard(self, leftover: Leftover) -> None:
        self._leftovers.discard(leftover)

    @translated("remove what was left half made")
    def sweep(self) -> None:
        self._site.sweep()
        self._venvs.sweep()
        self._volumes.remove_stale()
        self._networks.release()

    def logs(self, record: LaunchRecord, tail: int | None, follow: bool) -> Iterator[LogLine]:
        with translated("read the logs"):
            yield from self._backends.logs(record, tail, follow=follow)

    def close(self) -> None:
        """Close the connections to the engine."""
        self._site.close()
