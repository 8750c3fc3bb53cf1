"""The Docker Engine as one home sees it: the connection, the home's labels, and hardened containers."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import docker
import docker.errors
import docker.utils
from docker.types import LogConfig, Mount, Ulimit

from venvd_contract.errors import Unavailable
from venvd_engines.docker import labels
from venvd_engines.docker.translation import AWAY, find_reason
from venvd_engines.engine import EngineSettings

ANSWER_SECONDS = 60
"""The longest wait for an answer of the engine to a call that does no long work."""
WATCH_SECONDS = 30
"""The longest wait for an event; then the caller asks again, to find out whether the engine still answers."""

_TMPFS_MODES_API = (1, 42)

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The search path if an image sets none."""
_LOGS = LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"})
"""Set explicitly: the daemon's default driver may not support reading logs."""


class DockerClient:
    """The SDK's low-level clients, for all threads. DOCKER_HOST and related variables name the engine."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._instance = secrets.token_hex(6)
        self._connections: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._tmpfs_modes: bool | None = None

    @property
    def api(self) -> Any:
        """The client for short calls."""
        return self._connect(ANSWER_SECONDS)

    @property
    def slow_api(self) -> Any:
        """The client for calls that stay silent for long: a commit."""
        return self._connect(round(self.settings.build_timeout))

    @property
    def has_tmpfs_modes(self) -> bool:
        """Whether a tmpfs gets the mode in its options, as on Engine 23 (API 1.42) and later. Asks the engine once."""
        if self._tmpfs_modes is None:
            version = self.api.version()["ApiVersion"]
            self._tmpfs_modes = tuple(int(part) for part in version.split(".")) >= _TMPFS_MODES_API
        return self._tmpfs_modes

    def _connect(self, timeout: int) -> Any:
        with self._lock:
            if timeout not in self._connections:
                try:
                    self._connections[timeout] = docker.APIClient(**docker.utils.kwargs_from_env(), timeout=timeout)
                except AWAY as error:
                    raise Unavailable(f"no Docker Engine answers: {find_reason(error)}") from error
            return self._connections[timeout]

    def find_path(self, image: str) -> str:
        """Return the search path of an image for programs."""
        config = self.api.inspect_image(image)["Config"] or {}
        variables = dict(variable.partition("=")[::2] for variable in config.get("Env") or ())
        return variables.get("PATH") or _PATH

    def close(self) -> None:
        with self._lock:
            while self._connections:
                with contextlib.suppress(OSError):
                    self._connections.popitem()[1].close()

    # ---- labels ----------------------------------------------------------------------------------------------

    def labels(self, role: str, **more: str) -> dict[str, str]:
        """Make the labels of an object of this home; `more` are further ones (`launch=…`)."""
        return {
            labels.HOME: self.settings.home_id,
            labels.ROLE: role,
            labels.INSTANCE: self._instance,
            **{f"dev.venvd.{name}": value for name, value in more.items()},
        }

    def filters(self, role: str | None = None, **more: str) -> dict[str, list[str]]:
        """Make a filter of the Engine API for the objects of this home."""
        wanted = {labels.HOME: self.settings.home_id, **({labels.ROLE: role} if role else {})}
        wanted.update((f"dev.venvd.{name}", value) for name, value in more.items())
        return {"label": [f"{name}={value}" for name, value in wanted.items()]}

    def is_made_here(self, object_labels: dict[str, str] | None) -> bool:
        """Return whether this process made the object with these labels."""
        return (object_labels or {}).get(labels.INSTANCE) == self._instance

    # ---- containers ------------------------------------------------------------------------------------------

    def create_container(
        self,
        image: str,
        *,
        labels: Mapping[str, str],
        memory_bytes: int,
        cpus: float,
        processes: int,
        network: str = "none",
        tmpfs: Mapping[str, str] | None = None,
        mounts: Sequence[Mount] = (),
        read_only: bool = True,
        capabilities: Sequence[str] = (),
        runtime: str | None = None,
        published: Mapping[int, tuple[str, int]] | None = None,
        ulimits: Mapping[str, int] | None = None,
        keep_entrypoint: bool = False,
        **config: Any,
    ) -> str:
        """Create a container with every guard on (SECURITY.md), and return its ID. Arguments loosen single guards.

        Args:
            image: its entrypoint and health check are ignored, unless `keep_entrypoint` is set.
            labels: see `labels`.
            memory_bytes: RAM; there is no swap on top.
            cpus: processors, fractions allowed.
            processes: processes and threads.
            network: name of a network.
            tmpfs: options by path; `tmpfs_options` makes them.
            mounts: volumes and directories of the host.
            read_only: make the root file system read-only.
            capabilities: the capabilities of root that the container keeps.
            runtime: an OCI runtime other than the engine's default.
            published: address and port on the host, by the port inside.
            ulimits: further limits of each process, by the names of `setrlimit`.
            keep_entrypoint: run what the image is configured to run.
            config: further arguments of the SDK's `create_container`.
        """
        host_config = self.api.create_host_config(
            mem_limit=memory_bytes,
            memswap_limit=memory_bytes,
            nano_cpus=int(cpus * 1e9),
            pids_limit=processes,
            network_mode=network,
            tmpfs=dict(tmpfs or {}),
            mounts=list(mounts),
            read_only=read_only,
            cap_drop=["ALL"],
            cap_add=list(capabilities) or None,
            security_opt=["no-new-privileges:true"],
            ulimits=[Ulimit(name=name, soft=most, hard=most) for name, most in {"core": 0, **(ulimits or {})}.items()],
            log_config=_LOGS,
            runtime=runtime,
            port_bindings=dict(published or {}),
            ipc_mode="private",
            init=False,
        )
        if not keep_entrypoint:
            config |= {"entrypoint": [""], "healthcheck": {"test": ["NONE"]}}
        made = self.api.create_container(image, host_config=host_config, labels=dict(labels), **config)
        return str(made["Id"])

    @contextlib.contextmanager
    def temporary_container(self, image: str, **config: Any) -> Iterator[str]:
        """Yield a container that `create_container` makes, and remove it at the end whatever happens."""
        container = self.create_container(image, **config)
        try:
            yield container
        finally:
            self.remove_container(container)

    def watch_ends(self) -> Iterator[None]:
        """Yield once when the engine listens, and then whenever a container of this home ends or is removed."""
        filters = {**self.filters(), "type": "container", "event": ["die", "destroy"]}
        events = self._connect(WATCH_SECONDS).events(filters=filters)
        try:
            yield
            for _ in events:
                yield
        finally:
            events.close()

    def read_logs(self, container: str, *, stderr: bool) -> str:
        """Return the whole output of a container that has ended."""
        output: bytes = self.api.logs(container, stdout=True, stderr=stderr)
        return output.decode("utf-8", "replace").strip()

    def remove_container(self, container: str) -> None:
        """Remove a container and its anonymous volumes. It is not an error if it is absent or being removed already."""
        try:
            self.api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            if error.status_code != 409 or "already in progress" not in str(error.explanation):
                raise

    def inspect_image(self, name: str) -> Any:
        """Return the engine's description of an image, or None if there is no such image."""
        try:
            return self.api.inspect_image(name)
        except docker.errors.NotFound:
            return None

    def list_images(self, reference: str | None) -> Iterator[Any]:
        """Yield the images of this home whose tags match a pattern; with None, those without a tag.

        This compares the labels itself. For a filter by labels, an engine with containerd's image store reads the
        configuration of each of its images: half a second for a hundred images.
        """
        filters = {"dangling": True} if reference is None else {"reference": reference}
        for image in self.api.images(filters=filters):
            if (image["Labels"] or {}).get(labels.HOME) == self.settings.home_id:
                yield image

    def remove_stale_containers(self) -> None:
        """Remove the short-lived containers of killed processes."""
        for role in labels.TEMPORARY:
            for container in self.api.containers(all=True, filters=self.filters(role)):
                if not self.is_made_here(container["Labels"]):
                    self.remove_container(container["Id"])


def tmpfs_options(size_bytes: int, uid: int, gid: int, *, mode: str = "0700", executable: bool = False) -> str:
    """Make the options of a tmpfs with room for a file per 4 KiB, but at least 1,024 files and at most a million."""
    inodes = max(1024, min(size_bytes >> 12, 1 << 20))
    owner = f"uid={uid},gid={gid},mode={mode}"
    return f"size={size_bytes},nr_inodes={inodes},{owner},nosuid,nodev,{'exec' if executable else 'noexec'}"
