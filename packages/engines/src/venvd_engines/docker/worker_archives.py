"""The worker archive in a volume, with the bytecode of the CPython that runs it.

The archive that this process makes has the bytecode of its own CPython. Another CPython would compile the sources at
each start of a warden and of a zygote, so a container compiles them once. Venvs share the archive. So the container
runs a base image and not the image of the venv, whose packages could have changed its Python.
"""

from __future__ import annotations

import functools
import logging
import sys

import docker.errors
from docker.types import Mount

from venvd_engines.docker import labels
from venvd_engines.docker.base_images import BaseImages
from venvd_engines.docker.client import DockerClient
from venvd_engines.docker.volumes import MOUNT_POINT, FilledVolumes
from venvd_engines.engine import Image
from venvd_worker import archive

_log = logging.getLogger("venvd.engine")

_SECONDS = 60


class WorkerArchives:
    """Makes the volumes, one for each minor version of CPython."""

    def __init__(self, client: DockerClient, volumes: FilledVolumes, bases: BaseImages) -> None:
        self._client = client
        self._volumes = volumes
        self._bases = bases

    def ensure(self, image: Image) -> tuple[str, str]:
        """Return the volume for the Python of a venv's image, and the name of the archive in it."""
        path = archive.build(self._client.settings.home / "worker")
        minor = ".".join(image.python.split(".")[:2])
        own = minor == f"{sys.version_info.major}.{sys.version_info.minor}"
        volume = self._volumes.ensure(
            labels.ARCHIVE,
            archive.version() if own else f"{archive.version()}-{minor}",
            lambda: {path.name: path.read_bytes()},
            image.ref,
            finish=None if own else functools.partial(self._compile, minor, path.name),
        )
        return volume, path.name

    def _compile(self, minor: str, name: str, volume: str) -> None:
        """Give the archive in a volume the bytecode of a CPython. Without its base image, keep the archive as it is."""
        base = self._bases.find_local(minor)
        if base is None:
            _log.info("the worker archive has no bytecode of CPython %s: its base image is not here", minor)
            return
        with self._client.temporary_container(
            base,
            labels=self._client.labels(labels.HELPER),
            memory_bytes=256 << 20,
            cpus=1,
            processes=16,
            mounts=[Mount(MOUNT_POINT, volume, type="volume", no_copy=True)],
            command=["python3", "-I", "-S", "-B", f"{MOUNT_POINT}/{name}", "compile"],
            user="0:0",  # root owns the volume
        ) as container:
            try:
                self._client.api.start(container)
                status = self._client.api.wait(container, timeout=_SECONDS)["StatusCode"]
                output = self._client.read_logs(container, stderr=True)
            except docker.errors.APIError as error:
                status, output = 1, str(error)
            if status != 0:
                _log.warning("CPython %s could not compile the worker archive: %s", minor, output[-500:])
