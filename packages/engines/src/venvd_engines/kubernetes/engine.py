"""The kubernetes engine: pods build images, a registry keeps them, and backends are hardened pods."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from venvd_contract.errors import Unimplemented
from venvd_contract.resources import Leftover, LogLine
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
from venvd_engines.kubernetes import pods, sidecars
from venvd_engines.kubernetes.apt import AptImages
from venvd_engines.kubernetes.backends import Backends
from venvd_engines.kubernetes.cluster import Cluster, translate_errors
from venvd_engines.kubernetes.images import Images
from venvd_engines.kubernetes.policies import Policies
from venvd_engines.kubernetes.tasks import Tasks

BLOCK = 1000
"""User IDs of one home."""
BLOCKS = 100_000

_GAPS = (
    "Sessions share the kernel of their node; VENVD_OCI_RUNTIME names a runtime class that has one for each pod.",
    "There is no limit of processes for each container, only the kubelet's for each pod (podPidsLimit).",
    "Builds reach all that the cluster lets them reach: there is no broker between them and the network.",
)


class KubernetesEngine:
    """Runs in one namespace of the cluster that the environment names, as for kubectl; implements `Engine`."""

    name = "kubernetes"
    has_routers = True
    moving_types = frozenset({"http", "rpc"})

    def __init__(self, settings: EngineSettings) -> None:
        self._cluster = Cluster(settings)
        self._tasks = Tasks(self._cluster)
        self._apt = AptImages(self._cluster)
        self._images = Images(self._cluster, self._tasks, self._apt)
        self._policies = Policies(self._cluster)
        self._backends = Backends(self._cluster, self._policies)

    @translate_errors("check the cluster")
    def check(self) -> None:
        self._cluster.check()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            apt_packages=self._cluster.options.apt_namespace is not None,
            network_isolation=True,
            filesystem_isolation=True,
            memory_wall=True,
            attach=False,
            gaps=[*filter(None, [self._policies.describe()]), *_GAPS],
            sockets=False,
        )

    def count_processors(self) -> None:
        """Return None: the cluster spreads the pods over its nodes."""

    @translate_errors("find the runtime")
    def resolve(self, version: str, progress: Progress) -> RuntimeRef:
        return self._images.resolve(version, progress)

    @translate_errors("lock the requirements")
    def lock(
        self, runtime: RuntimeRef, requirements: Sequence[str], progress: Progress, constraints: Sequence[str] = ()
    ) -> str:
        return self._images.lock(runtime, requirements, progress, constraints)

    def adopt(self, folder: Path, checks: Sequence[str], progress: Progress) -> Image:  # noqa: ARG002 - it cannot
        raise Unimplemented(f"path: the engine kubernetes cannot use {folder}, which is no folder of its nodes")

    @translate_errors("build the venv")
    def build(self, venv: VenvBuild, progress: Progress) -> Image:
        return self._images.build(venv, progress)

    @translate_errors("look for an image")
    def find_image(self, key: str) -> Image | None:
        return self._images.find(key)

    @translate_errors("remove an image")
    def remove_image(self, key: str) -> None:
        self._images.remove(key)

    def prepare(self, backend_type: str, progress: Progress) -> None:  # noqa: ARG002 - the registry has it
        pods.find_image(self._cluster.options, backend_type)

    def identify_server(self, backend_type: str) -> str | None:
        images = self._cluster.options.images
        used = [
            images.get(name, "") for name in ("controller", backend_type)
        ]  # the controller's image has the worker archive
        return hashlib.sha256("\n".join(used).encode()).hexdigest()[:32] if all(used) else None

    def claim_user_ids(self) -> Sequence[int]:
        """Return a block of IDs that the home's identity chooses. Two homes share one with a chance of 1 in 100,000."""
        first = self._cluster.settings.uid_base + zlib.crc32(self._cluster.settings.home_id.encode()) % BLOCKS * BLOCK
        return range(first, first + BLOCK)

    def make_manifest(self, launch: Launch, token: str | None, image: str | None) -> Sequence[Mapping[str, Any]]:
        return sidecars.make_manifest(self._cluster.settings, launch, token, image)

    @translate_errors("start the backend")
    def start(self, launch: Launch, progress: Progress) -> LaunchRecord:
        return self._backends.start(launch, progress)

    @translate_errors("inspect the backend")
    def inspect(self, record: LaunchRecord) -> BackendState:
        return self._backends.inspect(record)

    @translate_errors("lead clients to another launch")
    def take_address(self, record: LaunchRecord, former: LaunchRecord) -> None:  # noqa: ARG002 - the Service names one
        self._backends.take_address(record)

    @translate_errors("replace the keys of the backend")
    def write_keys(self, record: LaunchRecord, data: bytes) -> None:
        self._backends.write_keys(record, data)

    @translate_errors("replace the secrets of the backend")
    def write_secrets(self, record: LaunchRecord, data: bytes) -> None:
        self._backends.write_secrets(record, data)

    @translate_errors("replace the files of the backend")
    def refresh_files(self, record: LaunchRecord) -> None:
        self._backends.refresh_files(record)

    @translate_errors("stop the backend")
    def stop(self, record: LaunchRecord, grace: float) -> None:
        self._backends.stop(record, grace)

    @translate_errors("remove the backend")
    def destroy(self, record: LaunchRecord, *, again: bool = False) -> None:  # noqa: ARG002 - there are no sockets
        self._backends.destroy(record)

    @translate_errors("remove the backend")
    def destroy_owned(self, owned: Owned) -> None:
        self._backends.destroy_owned(owned)

    @translate_errors("list the backends")
    def list_owned(self) -> Sequence[Owned]:
        self._cluster.remove_left()
        self._apt.remove_left()
        return self._backends.list_owned()

    def watch(self) -> Iterator[None]:
        with translate_errors("watch the pods"):
            yield from self._backends.pods.watch()

    def leftovers(self, used: Collection[str]) -> Sequence[Leftover]:  # noqa: ARG002 - the registry's owner removes images
        return ()

    def discard(self, leftover: Leftover) -> None:  # noqa: ARG002 - `leftovers` finds none
        return

    @translate_errors("remove unfinished objects")
    def sweep(self) -> None:
        self._tasks.sweep()
        self._apt.sweep()
        self._policies.sweep()

    def logs(self, record: LaunchRecord, tail: int | None, follow: bool) -> Iterator[LogLine]:
        with translate_errors("read the logs"):
            yield from self._backends.logs(record, tail, follow=follow)

    def close(self) -> None:
        """End the probe of the network, and close the connections to the cluster."""
        self._backends.pods.close()
        self._policies.close()
        self._apt.close()
        self._cluster.close()
