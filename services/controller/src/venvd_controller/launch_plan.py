"""The plan of a launch: ports, limits, and the environments of the server and of user code."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from venvd_contract.errors import Conflict
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_contract.server_settings import merge_server_settings
from venvd_controller.backends import Backends
from venvd_controller.database.tables import LaunchRow, name_replica
from venvd_controller.host_paths import HostPaths
from venvd_controller.launch_rows import read_spec
from venvd_controller.replicas import plan_replica
from venvd_controller.settings import Settings
from venvd_controller.specs import choose_socket_name
from venvd_engines.engine import Image, Launch, LaunchRecord, Port, WorkerLimits
from venvd_http.auth import sha256

_PORTS = {
    "http": (Port("main", 5678, 5678),),
    "rpc": (Port("main", 50051, 50051), Port("http", 8080, 8081)),
    "pipe": (),
}
_BEHIND = 10_000
"""Added to the usual ports for replicas behind a router. The router has the usual ones."""


def plan_launch(
    row: LaunchRow,
    venv: VenvSpec,
    image: Image,
    server_env: Mapping[str, str],
    settings: Settings,
    home_id: str,
    reserved_ports: Collection[int],
    keys: bytes,
    secrets_file: bytes,
    routed: bool,
    manages_key: str | None,
    user_id: int | None,
) -> Launch:
    """Plan a new launch of a backend.

    `keys` and `secrets_file` are the first content of the server's files, `manages_key` is its key for venvs, and
    `user_id` is the user of the worker host. `routed` says that the backend has a router, which has the backend's
    address and port.
    """
    spec = read_spec(row)
    behind = routed and not row.is_router
    has_own_address = behind or row.stage is not None
    _, server_files = merge_server_settings(venv.server, spec.server, spec.type)
    network = _choose_network(venv, spec)
    return Launch(
        id=secrets.token_hex(6),
        name=row.place,
        type=spec.type,
        image=image,
        server_env=server_env,
        server_files={variable: Path(path) for variable, path in server_files.items()},
        worker_env={**venv.env, **spec.env},
        dotnet=venv.dotnet,
        assemblies=None if venv.assemblies is None else Path(venv.assemblies),
        preload=venv.preload,
        preload_timeout=settings.preload_timeout,
        spare_sessions=settings.spare_sessions,
        host=spec.host,
        ports=_choose_ports(plan_replica(spec), row.ports, _BEHIND)
        if has_own_address
        else _choose_ports(spec, row.ports),
        reserved=reserved_ports,
        network="destinations" if isinstance(network, list) else network,
        oci_runtime=spec.ociRuntime or venv.ociRuntime,
        limits=WorkerLimits(
            memory_bytes=spec.limits.memoryBytes or settings.worker_memory_bytes,
            cpus=spec.limits.cpus or settings.worker_cpus,
            processes=spec.limits.processes or settings.worker_processes,
            tmpfs_bytes=settings.worker_tmpfs_bytes,
        ),
        socket_name=choose_socket_name(spec, home_id, row.place),
        keys=keys,
        secrets=secrets_file,
        manages_key=manages_key,
        user_id=user_id,
        pipe_name=spec.pipeName,
        router=row.is_router,
        routed=behind,
        beside=row.stage is not None,
        address_name=_choose_address_name(row, routed=routed),
        labels=spec.labels,
    )


def _choose_address_name(row: LaunchRow, *, routed: bool) -> str:
    """Choose the name of the address: the router has the backend's, and a replica behind it has another one."""
    if row.is_router:
        return row.replica_of or row.name
    return name_replica(row.place, 0) if routed and row.replica == 0 else row.place


def _choose_network(venv: VenvSpec, spec: BackendSpec) -> bool | Literal["loopback"] | list[str]:
    """Choose what user code may reach. An empty list means nothing."""
    return (venv.network if spec.network is None else spec.network) or False


def create_server_env(
    row: LaunchRow, venv: VenvSpec, backends: Backends, settings: Settings, engine_name: str
) -> dict[str, str]:
    """Create the settings of a backend's server, without those that the engine adds or that name files."""
    spec = read_spec(row)
    chosen, _ = merge_server_settings(venv.server, spec.server, spec.type)
    limits = {**json.loads(settings.session_limits), **json.loads(chosen.get("VENVD_SESSION_LIMITS", "{}"))}
    chosen_ceilings = (each.get("maxSessionLimits") or {} for each in (venv.server, spec.server))
    ceiling = _find_ceiling([json.loads(settings.max_session_limits), *chosen_ceilings])
    token = backends.tokens.derive(row)
    env = {
        "VENVD_NAME": row.replica_of or row.name,
        "VENVD_VENV": row.venv,
        "VENVD_ENGINE_NAME": engine_name,
        "VENVD_METRICS_TOKEN_SHA256": sha256(backends.tokens.derive_for_metrics(row)),
        "VENVD_LOG_LEVEL": settings.log_level,
        **chosen,
        "VENVD_SESSION_LIMITS": json.dumps(limits),
        "VENVD_MAX_SESSION_LIMITS": json.dumps(ceiling),
    }
    env |= {"VENVD_TOKEN_SHA256": sha256(token)} if token else {"VENVD_NO_TOKEN": "1"}
    network = _choose_network(venv, spec)
    if isinstance(network, list):
        env["VENVD_NETWORK"] = ",".join(network)
        env["VENVD_PRIVATE_NETWORKS"] = ",".join(settings.private_networks)
    if settings.trusted_proxies:
        env["VENVD_TRUSTED_PROXIES"] = ",".join(settings.trusted_proxies)
    if spec.timeout is not None:
        env["VENVD_DEFAULT_TIMEOUT"] = f"{spec.timeout:.15g}"
    if spec.allowedHosts:
        env["VENVD_ALLOWED_HOSTS"] = ",".join(spec.allowedHosts)
    if spec.allowedOrigins:
        env["VENVD_ALLOWED_ORIGINS"] = ",".join(spec.allowedOrigins)
    if spec.queueLimit is not None:
        env["VENVD_QUEUE_LIMIT"] = str(spec.queueLimit)
    if row.is_router:
        env["VENVD_TYPE"] = spec.type
        env["VENVD_METRICS_TOKEN"] = backends.tokens.derive_for_metrics(row)
    elif row.replica:
        env["VENVD_REPLICA"] = str(row.replica)
    if spec.handleLease is not None:
        env["VENVD_HANDLE_LEASE"] = str(spec.handleLease)
    return env


def _find_ceiling(ceilings: list[dict[str, int | None]]) -> dict[str, int]:
    """Return the lowest value of each limit in any of the ceilings: a venv cannot raise the operator's."""
    given = [(name, value) for each in ceilings for name, value in each.items() if value is not None]
    return {name: min(value for other, value in given if other == name) for name, _ in given}


def read_ports(record: LaunchRecord) -> dict[str, int]:
    """Read the ports of a launch. The next launch takes them again."""
    ports = {"main": urlsplit(record.url).port, "http": urlsplit(record.http_url or record.probe_url).port}
    return {name: port for name, port in ports.items() if port is not None}


def _choose_ports(spec: BackendSpec, previous: Mapping[str, int], offset: int = 0) -> tuple[Port, ...]:
    """Choose the ports to publish: the requested ones, else those of the last launch, else the default + `offset`."""
    ports = []
    for port in _PORTS[spec.type]:
        requested = spec.port if port.name == "main" else spec.httpPort
        if requested is not None:
            ports.append(Port(port.name, port.inside, requested, exact=True))
        else:
            ports.append(Port(port.name, port.inside, previous.get(port.name, port.wanted + offset)))
    return tuple(ports)


def check_socket_dir(spec: BackendSpec, run_dir: Path) -> None:
    """Raise `Conflict` if a requested directory of sockets is not absent or empty."""
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
        raise Conflict(f"socketDir: {path} exists and is not an empty directory: name another, or remove it")


def find_certificate(venv: VenvSpec, spec: BackendSpec, *, routed: bool) -> str | None:
    """Find the file of the certificate that a server shows to probes or to its router. Return None if it shows none."""
    _, server_files = merge_server_settings(venv.server, spec.server, spec.type)
    return server_files.get("VENVD_TLS_CERT") if spec.type == "http" or routed else None


def check_host_paths(venv: VenvSpec, spec: BackendSpec, host_paths: HostPaths) -> None:
    """Check the paths of the host that a launch uses, since their targets may have changed.

    Raises:
        Forbidden: a path leads elsewhere now, or is not allowed any more.
        InvalidRequest: a path is gone.
    """
    _, server_files = merge_server_settings(venv.server, spec.server, spec.type)
    named = {"path": venv.path, "assemblies": venv.assemblies, **server_files}
    for field, path in named.items():
        if path is not None:
            host_paths.check_again(field, path)
