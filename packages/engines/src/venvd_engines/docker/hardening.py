"""The settings of containers: what DESIGN's Security asks of every one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docker.types import LogConfig, Mount, Ulimit

BACKEND_LOGS = LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"})
"""Named, since the daemon's default driver may keep no logs that can be read back."""


def host_config(
    api: Any,
    *,
    memory_bytes: int,
    cpus: float,
    processes: int,
    network: str = "none",
    tmpfs: Mapping[str, str] | None = None,
    mounts: Sequence[Mount] = (),
    read_only: bool = True,
    capabilities: Sequence[str] = (),
    runtime: str | None = None,
    ports: Mapping[int, tuple[str, int]] | None = None,
    shm_bytes: int = 64 << 20,
) -> Any:
    """A host configuration with every guard on; what is loosened is an argument."""
    return api.create_host_config(
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
        ulimits=[Ulimit(name="core", soft=0, hard=0)],
        log_config=BACKEND_LOGS,
        runtime=runtime,
        port_bindings=dict(ports or {}),
        shm_size=shm_bytes,
        ipc_mode="private",
        init=False,
    )


def scratch(size_bytes: int, uid: int, gid: int, *, executable: bool = False, mode: str = "0700") -> str:
    """The options of a tmpfs for one user."""
    return f"size={size_bytes},uid={uid},gid={gid},mode={mode},nosuid,nodev,{'exec' if executable else 'noexec'}"


def neutral(api: Any, image: str, *, config: Any, labels: Mapping[str, str], **more: Any) -> str:
    """Create a container that is not what its image says: no entrypoint, no health check."""
    made = api.create_container(
        image,
        entrypoint=[""],
        healthcheck={"test": ["NONE"]},
        host_config=config,
        labels=dict(labels),
        **more,
    )
    return str(made["Id"])
