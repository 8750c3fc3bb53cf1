"""What a backend is launched with: ports, limits, and the environments of its server and of user code."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from venvd_contract.errors import Conflict
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller.backends import Backends, spec_of
from venvd_controller.database.tables import BackendRow
from venvd_controller.home import sha256
from venvd_controller.settings import Settings
from venvd_controller.specs import socket_name
from venvd_engines.engine import Image, Launch, LaunchRecord, Port, WorkerLimits

_PORTS = {
    "http": (Port("main", 5678, 5678),),
    "rpc": (Port("main", 50051, 50051), Port("http", 8080, 8081)),
    "pipe": (),
}


def plan(
    row: BackendRow,
    venv: VenvSpec,
    image: Image,
    server_env: Mapping[str, str],
    settings: Settings,
    home_id: str,
    reserved: Collection[int],
) -> Launch:
    """A fresh launch of a backend."""
    spec = spec_of(row)
    return Launch(
        id=secrets.token_hex(6),
        name=row.name,
        type=spec.type,
        image=image,
        server_env=server_env,
        worker_env={**venv.env, **spec.env},
        preload=venv.preload,
        preload_timeout=settings.preload_timeout,
        spare_sessions=settings.spare_sessions,
        host=spec.host,
        ports=_ports(spec, row.ports),
        reserved=reserved,
        network=venv.network if spec.network is None else spec.network,
        limits=WorkerLimits(
            memory_bytes=spec.limits.memoryBytes or settings.worker_memory_bytes,
            cpus=spec.limits.cpus or settings.worker_cpus,
            processes=spec.limits.processes or settings.worker_processes,
            tmpfs_bytes=settings.worker_tmpfs_bytes,
        ),
        socket_name=socket_name(spec, home_id, row.name),
        labels=spec.labels,
    )


def server_env(row: BackendRow, backends: Backends, settings: Settings, engine_name: str) -> dict[str, str]:
    """The settings of a backend's server, apart from those that its place gives it."""
    spec = spec_of(row)
    token = backends.token(row)
    env = {
        "VENVD_NAME": row.name,
        "VENVD_VENV": row.venv,
        "VENVD_ENGINE_NAME": engine_name,
        "VENVD_METRICS_TOKEN_SHA256": sha256(backends.metrics_token(row)),
        "VENVD_SESSION_LIMITS": settings.session_limits,
        "VENVD_LOG_LEVEL": settings.log_level,
    }
    env |= {"VENVD_TOKEN_SHA256": sha256(token)} if token else {"VENVD_NO_TOKEN": "1"}
    if spec.timeout is not None:
        env["VENVD_DEFAULT_TIMEOUT"] = f"{spec.timeout:g}"
    return env


def had(record: LaunchRecord) -> dict[str, int]:
    """The ports that a launch got, to be asked for again."""
    found = {"main": urlsplit(record.url).port, "http": urlsplit(record.probe_url).port}
    return {name: port for name, port in found.items() if port is not None}


def _ports(spec: BackendSpec, before: Mapping[str, int]) -> tuple[Port, ...]:
    """The ports to publish: the one asked for, else those it had, else the first that are free."""
    found = []
    for port in _PORTS[spec.type]:
        exact = port.name == "main" and spec.port is not None
        wanted = spec.port if exact and spec.port is not None else before.get(port.name, port.wanted)
        found.append(Port(port.name, port.inside, wanted, exact))
    return tuple(found)


def check_socket_dir(spec: BackendSpec, run_dir: Path) -> None:
    """Raises `Conflict` where a directory of sockets that was named holds something: a launch begins with it empty."""
    if spec.socketDir is None:
        return
    path = run_dir / spec.socketDir
    try:
        empty = not path.is_symlink() and not any(path.iterdir())
    except FileNotFoundError:
        return
    except OSError:
        empty = False
    if not empty:
        raise Conflict(f"socketDir: {path} is there already and no empty directory: name another, or remove it")
