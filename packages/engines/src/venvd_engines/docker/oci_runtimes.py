"""OCI runtimes: which the engine has, and whether worker hosts can run with them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import docker.errors
from docker.types import Mount

from venvd_contract.errors import InvalidRequest
from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient
from venvd_engines.docker.translation import explain

_DIRECTORY = "/run/venvd/probe"
_SECONDS = 60


class OciRuntimes:
    """Tries each runtime once, before its first worker host starts."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._working: set[str] = set()

    def find_default(self) -> str:
        """Return the runtime of launches that name none."""
        return self._client.settings.oci_runtime or str(self._client.api.info().get("DefaultRuntime") or "runc")

    def check_known(self, name: str) -> None:
        """Raise `InvalidRequest` if the engine has no runtime of this name."""
        known = self._client.api.info().get("Runtimes") or {}
        if name not in known:
            raise InvalidRequest(
                f'the Docker Engine has no OCI runtime "{name}"; it has {", ".join(sorted(known))} (daemon.json of the '
                "engine adds others)"
            )

    def check(self, name: str, image: str) -> None:
        """Check that worker hosts can run with a runtime.

        Args:
            name: the name of the runtime.
            image: an image with Python, for the containers that try the runtime.

        Raises:
            InvalidRequest: the engine lacks the runtime, or something that a worker host needs does not work with it.
        """
        with self._lock:
            if name in self._working:
                return
            self.check_known(name)
            if name != self._client.api.info().get("DefaultRuntime"):
                # A second try: on a busy machine, a container under gVisor once ended before its program began.
                failure = self._try(name, image) and self._try(name, image)
                if failure:
                    raise InvalidRequest(f'worker hosts cannot run with the OCI runtime "{name}": {failure}')
            self._working.add(name)

    def _try(self, runtime: str, image: str) -> str | None:
        """Run both halves of the probe. Return what did not work, or None."""
        with self._make_directory() as directory, ThreadPoolExecutor(2, thread_name_prefix="docker: probe") as pool:
            server = pool.submit(self._run, image, "listen", directory, labels.SERVER_UID, None)
            failure = self._run(image, "connect", directory, labels.WORKER_UID, runtime)
            return failure or server.result()

    def _run(self, image: str, half: str, directory: str, user: int, runtime: str | None) -> str | None:
        program = files("venvd_engines.docker").joinpath("runtime_probe.py").read_text()
        mount = Mount(_DIRECTORY, directory, type="volume", read_only=half == "connect", no_copy=True)
        try:
            with self._client.temporary_container(
                image,
                labels=self._client.labels(labels.HELPER),
                memory_bytes=256 << 20,
                cpus=1,
                processes=32,
                mounts=[mount],
                runtime=runtime,
                command=["python3", "-I", "-S", "-c", program, half, _DIRECTORY],
                user=f"{user}:{labels.SHARED_GID}",
            ) as container:
                self._client.api.start(container)
                status = self._client.api.wait(container, timeout=_SECONDS)["StatusCode"]
                if status == 0:
                    return None
                output = self._client.read_logs(container, stderr=True)
        except docker.errors.APIError as error:
            return f"a container does not start: {explain(error)}"
        return output.splitlines()[-1][:500] if output else f"the probe ended with status {status} and printed nothing"

    @contextlib.contextmanager
    def _make_directory(self) -> Iterator[str]:
        """Make the volume that both containers mount, and yield its name. It is a tmpfs, as a backend's channel is."""
        options = f"uid={labels.SERVER_UID},gid={labels.SHARED_GID},mode=2770,size=1m,nosuid,nodev,noexec"
        volume = self._client.api.create_volume(
            driver_opts={"type": "tmpfs", "device": "tmpfs", "o": options},
            labels=self._client.labels(labels.HELPER),
        )
        try:
            yield str(volume["Name"])
        finally:
            with contextlib.suppress(docker.errors.APIError):
                self._client.api.remove_volume(volume["Name"])
