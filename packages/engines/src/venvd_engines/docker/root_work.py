"""Work on the engine's host that needs root: a container does it if this process is another user."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import docker.errors
from docker.types import Mount

from venvd_contract.errors import Internal, VenvdError
from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient

MOUNT_POINT = "/run/venvd/run"


def run_as_root(
    client: DockerClient,
    directory: Path,
    code: str,
    arguments: Sequence[Any],
    image: str,
    refusals: Mapping[int, VenvdError] | None = None,
) -> None:
    """Run Python code as root in a container.

    Args:
        client: the client of the engine.
        directory: the directory to mount at `MOUNT_POINT`.
        code: the code; it gets the arguments as JSON in `sys.argv[1]`.
        arguments: the arguments of the code.
        image: an image with Python.
        refusals: the errors to raise, by the exit statuses of the code.

    Raises:
        Internal: the directory does not exist on the engine's host, or the code failed.
    """
    with client.temporary_container(
        image,
        labels=client.labels(labels.HELPER),
        memory_bytes=128 << 20,
        cpus=1,
        processes=16,
        mounts=[Mount(MOUNT_POINT, str(directory), type="bind")],
        capabilities=("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"),
        command=["python3", "-I", "-S", "-c", code, json.dumps(arguments)],
        user="0:0",
    ) as container:
        try:
            client.api.start(container)
        except docker.errors.NotFound as error:
            raise Internal(f"the directory {directory} does not exist on the engine's host: {error}") from None
        status = client.api.wait(container, timeout=60)["StatusCode"]
        if refusals is not None and status in refusals:
            raise refusals[status]
        if status != 0:
            output = client.read_logs(container, stderr=True)
            raise Internal(f"could not change what is in {directory}: {output[-500:]}")
