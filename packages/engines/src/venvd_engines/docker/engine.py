"""The docker engine: images through a build container, backends as pairs of hardened containers."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from venvd_contract.errors import InvalidRequest, Unavailable, Unimplemented, VenvdError
from venvd_contract.resources import Leftover, LogLine
from venvd_engines import session_walls
from venvd_engines.docker.backends import Backends
from venvd_engines.docker.base_images import BaseImages
from venvd_engines.docker.build_container import BuildContainers
from venvd_engines.docker.client import DockerClient
from venvd_engines.docker.compat import PipeNames
from venvd_engines.docker.leftovers import Leftovers
from venvd_engines.docker.networks import Networks
from venvd_engines.docker.oci_runtimes import OciRuntimes
from venvd_engines.docker.server_images import ServerImages
from venvd_engines.docker.socket_directories import SocketDirectories
from venvd_engines.docker.translation import translate_errors
from venvd_engines.docker.user_ids import UserIds
from venvd_engines.docker.venv_images import VenvImages
from venvd_engines.docker.volumes import FilledVolumes
from venvd_engines.docker.worker_archives import WorkerArchives
from venvd_engines.engine import (
    SHARED_KERNEL,
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
from venvd_worker import archive

OLDEST_API = (1, 41)
"""Of Docker Engine 20.10."""


class DockerEngine:
    """Runs on the Docker Engine that DOCKER_HOST names, by default this machine's; implements `Engine`."""

    name = "docker"
    has_routers = True
    moving_types = frozenset({"pipe"})

    def __init__(self, settings: EngineSettings) -> None:
        self._client = DockerClient(settings)
        self._bases = BaseImages(self._client)
        self._volumes = FilledVolumes(self._client)
        self._networks = Networks(self._client)
        self._user_ids = UserIds(self._client)
        self._runtimes = OciRuntimes(self._client)
        containers = BuildContainers(self._client, self._volumes)
        self._servers = ServerImages(self._client, self._bases, containers)
        self._venvs = VenvImages(self._client, self._bases, containers)
        self._leftovers = Leftovers(self._client, self._venvs, self._servers, self._volumes)
        directories = SocketDirectories(self._client)
        pipe_names = PipeNames(self._client)
        self._backends = Backends(
            self._client,
            self._servers,
            WorkerArchives(self._client, self._volumes, self._bases),
            self._networks,
            self._runtimes,
            directories,
            pipe_names,
        )

    @translate_errors("check the engine")
    def check(self) -> None:
        version = self._client.api.version()
        if tuple(int(part) for part in version["ApiVersion"].split(".")) < OLDEST_API:
            raise Unavailable(f"Docker Engine {version['Version']} is too old: 20.10 or newer is needed")
        self._user_ids.check()
        runtime = self._client.settings.oci_runtime
        if runtime is not None:
            try:
                self._runtimes.check_known(runtime)
            except InvalidRequest as error:
                raise Unavailable(f'VENVD_OCI_RUNTIME is "{runtime}": {error.message}') from None

    def capabilities(self) -> Capabilities:
        return Capabilities(
            apt_packages=True,
            network_isolation=True,
            filesystem_isolation=True,
            memory_wall=True,
            attach=True,
            gaps=tuple(self._list_gaps()),
        )

    def _list_gaps(self) -> Iterator[str]:
        yield from session_walls.list_gaps()
        with contextlib.suppress(VenvdError), translate_errors("read the OCI runtimes"):
            runtime = self._runtimes.find_default()
            if runtime in SHARED_KERNEL:
                yield (
                    f"Worker hosts run with the OCI runtime {runtime}, on the kernel of the host: a defect of it is "
                    "enough to leave one. VENVD_OCI_RUNTIME=runsc (gVisor) puts a kernel of its own around each."
                )
            else:
                yield (
                    f"Worker hosts run with the OCI runtime {runtime}, whose kernel may lack Landlock. gVisor has "
                    "namespaces around sessions in its place: the sessions of one backend can connect to each "
                    "other's abstract sockets. `venvd status NAME` says what stands around a backend."
                )

    @translate_errors("count its processors")
    def count_processors(self) -> int:
        return int(self._client.api.info()["NCPU"])

    @translate_errors("find the runtime")
    def resolve(self, version: str, progress: Progress) -> RuntimeRef:
        return self._bases.resolve(version, progress)

    @translate_errors("lock the requirements")
    def lock(
        self, runtime: RuntimeRef, requirements: Sequence[str], progress: Progress, constraints: Sequence[str] = ()
    ) -> str:
        return self._venvs.lock(runtime, requirements, progress, constraints)

    def adopt(self, folder: Path, checks: Sequence[str], progress: Progress) -> Image:  # noqa: ARG002 - it cannot
        raise Unimplemented(
            f"path: the engine docker cannot use {folder} as it is; `venvd venv create NAME --venv {folder}` builds a "
            "venv from the packages that are installed there"
        )

    @translate_errors("build the venv")
    def build(self, venv: VenvBuild, progress: Progress) -> Image:
        return self._venvs.build(venv, progress)

    @translate_errors("look for an image")
    def find_image(self, key: str) -> Image | None:
        return self._venvs.find(key)

    @translate_errors("remove an image")
    def remove_image(self, key: str) -> None:
        self._venvs.remove(key)

    @translate_errors("prepare the server's image")
    def prepare(self, backend_type: str, progress: Progress) -> None:
        self._servers.ensure(backend_type, progress)

    def identify_server(self, backend_type: str) -> str | None:
        image = self._servers.identify(backend_type)
        return None if image is None else f"{image}-{archive.version()}"

    @translate_errors("claim user IDs")
    def claim_user_ids(self) -> Sequence[int]:
        return self._user_ids.claim()

    def make_manifest(self, launch: Launch, token: str | None, image: str | None) -> Sequence[Mapping[str, Any]]:  # noqa: ARG002 - there are no pods
        raise Unimplemented("a manifest is for pods, and the engine docker has none: start the backend")

    @translate_errors("start the backend")
    def start(self, launch: Launch, progress: Progress) -> LaunchRecord:
        return self._backends.start(launch, progress)

    @translate_errors("inspect the backend")
    def inspect(self, record: LaunchRecord) -> BackendState:
        return self._backends.inspect(record)

    @translate_errors("lead clients to another launch")
    def take_address(self, record: LaunchRecord, former: LaunchRecord) -> None:
        self._backends.take_address(record, former)

    @translate_errors("replace the keys of the backend")
    def write_keys(self, record: LaunchRecord, data: bytes) -> None:
        self._backends.write_keys(record, data)

    @translate_errors("replace the secrets of the backend")
    def write_secrets(self, record: LaunchRecord, data: bytes) -> None:
        self._backends.write_secrets(record, data)

    def refresh_files(self, record: LaunchRecord) -> None:
        """Do nothing: the server sees the files of the host."""

    @translate_errors("stop the backend")
    def stop(self, record: LaunchRecord, grace: float) -> None:
        self._backends.stop(record, grace)

    @translate_errors("remove the backend")
    def destroy(self, record: LaunchRecord, *, again: bool = False) -> None:
        self._backends.destroy(record, again=again)

    @translate_errors("remove the backend")
    def destroy_owned(self, owned: Owned) -> None:
        self._backends.destroy_owned(owned)

    @translate_errors("list the backends")
    def list_owned(self) -> Sequence[Owned]:
        return self._backends.list_owned()

    def watch(self) -> Iterator[None]:
        with translate_errors("watch the backends"):
            yield from self._client.watch_ends()

    @translate_errors("list leftovers")
    def leftovers(self, used: Collection[str]) -> Sequence[Leftover]:
        return list(self._leftovers.find(used))

    @translate_errors("remove a leftover")
    def discard(self, leftover: Leftover) -> None:
        self._leftovers.discard(leftover)

    @translate_errors("remove unfinished objects")
    def sweep(self) -> None:
        self._client.remove_stale_containers()
        self._venvs.sweep()
        self._volumes.remove_stale()
        self._networks.remove_unused()
        self._user_ids.release()

    def logs(self, record: LaunchRecord, tail: int | None, follow: bool) -> Iterator[LogLine]:
        with translate_errors("read the logs"):
            yield from self._backends.logs(record, tail, follow=follow)

    def close(self) -> None:
        """Close the connections to the engine."""
        self._client.close()
