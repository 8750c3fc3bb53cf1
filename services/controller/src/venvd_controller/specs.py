"""Checks specifications before anything is written."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from venvd_contract.errors import Forbidden, InvalidRequest
from venvd_contract.internal.environment import check_declared
from venvd_contract.resources import (
    BACKEND_TYPES,
    LONGEST_DRAIN,
    LONGEST_LEASE,
    MOST_QUEUED,
    UPDATES,
    BackendSpec,
    VenvSpec,
    check_name,
    check_version,
)
from venvd_contract.server_settings import check_server_settings, list_files
from venvd_controller.dotnet import add_requirements
from venvd_controller.host_paths import HostPaths
from venvd_controller.runtimes import SUPPORTED
from venvd_egress.destinations import parse_destinations
from venvd_engines import locking, requirements
from venvd_engines.compat import find_link
from venvd_engines.engine import RESERVED_DIRECTORIES
from venvd_engines.pyproject import Pyproject, RequiresPython
from venvd_http.origin import parse_host_pattern, parse_origin_pattern

_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,98}[A-Za-z0-9])?")
_SOCKET_DIR = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PATTERN = re.compile(r"[a-z0-9*]([a-z0-9*-]{0,61}[a-z0-9*])?")
_MAX_PATTERNS = 100
_OCI_RUNTIME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_LABELS = 200
_MAX_LENGTH = 32_768
"""The most characters of a label's value."""
_LIMITS = {"memoryBytes": (16 << 20, 1 << 50), "cpus": (0.01, 4096.0), "processes": (8, 1 << 22)}
_MAX_PIPE_NAME = 64
_MAX_TIMEOUT = 7 * 24 * 3600.0
_MAX_TTL = 3650 * 24 * 3600.0


def check_venv(spec: VenvSpec, host_paths: HostPaths) -> VenvSpec:
    """Check a venv's specification, and return it with canonical requirements.

    Raises:
        InvalidRequest: a field is wrong; the message names it and what it takes.
        Forbidden: a path of the host is not allowed.
    """
    if spec.python is not None:
        check_version(spec.python)
    check_declared(spec.env)
    _check_labels(spec.labels)
    _check_oci_runtime(spec.ociRuntime)
    _check_network(spec.network)
    _check_dotnet(spec)
    if spec.path is not None:
        _check_alone(spec)
    pyproject = _read_pyproject(spec)
    declared = [] if pyproject is None else pyproject.list_dependencies(spec.extras, spec.groups)
    lines = requirements.check([*spec.requirements, *declared])
    return replace(
        spec,
        requiresPython=_check_python(spec, pyproject),
        requirements=lines,
        constraints=requirements.check(spec.constraints),
        lock=_check_lock(spec, add_requirements(lines, spec.dotnet)),
        path=None if spec.path is None else host_paths.check("path", spec.path),
        pyproject=None,
        extras=[],
        groups=[],
        checks=requirements.check_modules(spec.checks),
        aptPackages=requirements.check_apt(spec.aptPackages),
        preload=requirements.check_modules(spec.preload),
        server=_check_server(spec.server, None, host_paths),
        assemblies=spec.assemblies and host_paths.check("assemblies", spec.assemblies),
    )


_NOT_WITH_PATH = (
    "python",
    "requiresPython",
    "requirements",
    "aptPackages",
    "constraints",
    "lock",
    "pyproject",
    "dotnet",
)


def _check_alone(spec: VenvSpec) -> None:
    """Check that the specification installs nothing into a virtual environment of the host."""
    for name in _NOT_WITH_PATH:
        if getattr(spec, name):
            raise InvalidRequest(f"path and {name} exclude each other: the virtual environment is used as it is")


def _read_pyproject(spec: VenvSpec) -> Pyproject | None:
    """Read the pyproject.toml that a venv brings."""
    if spec.pyproject is not None:
        return Pyproject(spec.pyproject)
    if spec.extras or spec.groups:
        raise InvalidRequest("extras and groups are those of a pyproject.toml, and the field pyproject is absent")
    return None


def _check_python(spec: VenvSpec, pyproject: Pyproject | None) -> str | None:
    """Return the Pythons that a venv may have, and check that the one that it names is among them."""
    text = spec.requiresPython or (pyproject and pyproject.requires_python)
    if not text:
        return None
    needed = RequiresPython(text)
    if spec.python is not None and not needed.allows(spec.python):
        raise InvalidRequest(f"requiresPython: the venv needs Python {text}, and its python is {spec.python}")
    if not any(map(needed.allows, SUPPORTED)):
        raise InvalidRequest(f"requiresPython: no supported Python is {text}; supported are {', '.join(SUPPORTED)}")
    return text


def _check_lock(spec: VenvSpec, lines: Sequence[str]) -> str | None:
    """Return the lock that a venv brings, in its canonical form. Check that it pins what `lines` ask for."""
    if spec.lock is None:
        return None
    if spec.constraints:
        raise InvalidRequest("lock and constraints exclude each other: a lock pins every version already")
    lock = locking.adopt(spec.lock)
    locking.check_covers(lock, lines)
    return lock


def _check_dotnet(spec: VenvSpec) -> None:
    if spec.assemblies is not None and not spec.dotnet:
        raise InvalidRequest("assemblies: they need the .NET runtime: set dotnet to true")
    if "clr" in spec.preload:
        raise InvalidRequest(
            'preload: "clr" starts the .NET runtime, which does not survive a fork: import it in sessions instead'
        )


def _check_server(given: Mapping[str, Any], backend_type: str | None, host_paths: HostPaths) -> dict[str, Any]:
    """Check a map of server settings, and return it with resolved paths of files."""
    check_server_settings(given, backend_type)
    files = {name: host_paths.check(f"server.{name}", path) for name, path in list_files(given).items()}
    return {**given, **files}


def check_backend(spec: BackendSpec, host_paths: HostPaths) -> BackendSpec:
    """Check a backend's specification, and return it with `host` as an address and `socketDir` as a name.

    Raises:
        InvalidRequest: a field is wrong; the message names it and what it takes.
        Forbidden: the backend would be open to the network without a token, or a path of the host is not allowed.
    """
    if spec.type not in BACKEND_TYPES:
        raise InvalidRequest(f'"{spec.type[:40]}" is not a type of backend; the types are {", ".join(BACKEND_TYPES)}')
    if spec.name is not None:
        check_name("backend", spec.name)
    if spec.update not in UPDATES:
        raise InvalidRequest(f'update takes {" or ".join(UPDATES)}, not "{spec.update[:40]}"')
    check_name("venv", spec.venv)
    check_declared(spec.env)
    _check_labels(spec.labels)
    _check_oci_runtime(spec.ociRuntime)
    _check_network(spec.network)
    _check_ports(spec)
    _check_numbers(spec)
    _check_browsers(spec)
    _check_pipe_name(spec, host_paths.pipe_name_dir)
    _check_patterns(spec.manages)
    host = _parse_host(spec.host)
    if not spec.token and spec.type != "pipe" and not is_loopback(host):
        raise Forbidden(f"a backend without a token is served only on loopback or a socket, not on {host}")
    server = _check_server(spec.server, spec.type, host_paths)
    return replace(spec, host=host, socketDir=_parse_socket_dir(spec, host_paths.run_dir), server=server)


def _check_patterns(patterns: Sequence[str]) -> None:
    if len(patterns) > _MAX_PATTERNS:
        raise InvalidRequest(f"manages: {len(patterns)} entries exceed the limit of {_MAX_PATTERNS}")
    for pattern in patterns:
        if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
            raise InvalidRequest(
                f'manages: "{str(pattern)[:80]}" is not the name of a venv, in which * may stand for any text '
                "(provider-*)"
            )


def _parse_socket_dir(spec: BackendSpec, run_dir: Path) -> str | None:
    text = spec.socketDir
    if text is None:
        return None
    if spec.type != "pipe":
        raise InvalidRequest(f"socketDir: a backend of type {spec.type} has a port and no socket")
    path = run_dir / os.path.normpath(text)
    below = "\0" not in text and os.path.realpath(path.parent) == os.path.realpath(run_dir)
    if not below or not _SOCKET_DIR.fullmatch(path.name):
        raise InvalidRequest(
            f'socketDir: "{text[:200]}" is not directly below the run directory {run_dir}: write {run_dir}/app '
            "or app, in letters, digits, - and _ (VENVD_RUN_DIR of the controller sets the run directory)"
        )
    if path.name.startswith(RESERVED_DIRECTORIES):
        raise InvalidRequest(
            f'socketDir: "{path.name}" is reserved for directories of venvd, like all names that begin with '
            f"{' or '.join(RESERVED_DIRECTORIES)}: choose another"
        )
    return path.name


def _check_pipe_name(spec: BackendSpec, directory: Path) -> None:
    name = spec.pipeName
    if name is None:
        return
    if spec.type != "pipe":
        raise InvalidRequest(f"pipeName: a backend of type {spec.type} has a port and no pipe")
    if name.startswith("/"):
        raise InvalidRequest(
            f'pipeName: "{name[:200]}" is a path, and .NET opens a path as it is: give clients the path of the socket, '
            "which socketDir can choose"
        )
    if not 1 <= len(name) <= _MAX_PIPE_NAME or "/" in name or not name.isprintable():
        raise InvalidRequest(f'pipeName: "{name[:80]}" is not 1 to {_MAX_PIPE_NAME} printable characters without "/"')
    if name.lower() == "anonymous":
        raise InvalidRequest(f'pipeName: .NET reserves the name "{name}"')
    find_link(directory, name)


def choose_name(base: str, taken: set[str]) -> str:
    """Choose the name `base`, with a number after it if the name is taken."""
    base = base[:58].rstrip("-")
    if base not in taken:
        return base
    return next(name for number in range(2, len(taken) + 3) if (name := f"{base}-{number}") not in taken)


def choose_socket_name(spec: BackendSpec, home_id: str, name: str) -> str | None:
    """Choose the name of a backend's directory of sockets.

    It is short, because paths of sockets must be short. It differs between homes, which may share a run directory.
    """
    if spec.type != "pipe":
        return None
    return spec.socketDir or hashlib.sha256(f"{home_id}/{name}".encode()).hexdigest()[:10]


def _check_oci_runtime(name: str | None) -> None:
    if name is not None and not _OCI_RUNTIME.fullmatch(name):
        raise InvalidRequest(
            f'ociRuntime: "{name[:80]}" is not the name of an OCI runtime of the engine, such as runsc'
        )


def _check_network(network: object) -> None:
    if isinstance(network, list):
        try:
            parse_destinations(network)
        except ValueError as error:
            raise InvalidRequest(f"network: {error}") from None


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > _MAX_LABELS:
        raise InvalidRequest(f"labels: {len(labels)} entries exceed the limit of {_MAX_LABELS}")
    for name, value in labels.items():
        if not _LABEL_NAME.fullmatch(name):
            raise InvalidRequest(f'labels: "{name[:80]}" cannot name a label')
        if "\0" in value or len(value) > _MAX_LENGTH:
            raise InvalidRequest(f"labels.{name}: takes at most {_MAX_LENGTH} characters, none of them NUL")


def _check_ports(spec: BackendSpec) -> None:
    if spec.port is not None and spec.type == "pipe":
        raise InvalidRequest("port: a pipe backend has a socket and no port")
    if spec.httpPort is not None and spec.type != "rpc":
        raise InvalidRequest(f"httpPort: only a backend of type rpc has it, not one of type {spec.type}")
    for name, number in (("port", spec.port), ("httpPort", spec.httpPort)):
        if number is not None and not 1 <= number <= 65535:
            raise InvalidRequest(f"{name} must be 1 to 65535, not {number}")
    if spec.port is not None and spec.port == spec.httpPort:
        raise InvalidRequest(f"port and httpPort are both {spec.port}: gRPC and HTTP need a port each")


def _check_browsers(spec: BackendSpec) -> None:
    for field, patterns, parse in (
        ("allowedHosts", spec.allowedHosts, parse_host_pattern),
        ("allowedOrigins", spec.allowedOrigins, parse_origin_pattern),
    ):
        if len(patterns) > _MAX_PATTERNS:
            raise InvalidRequest(f"{field}: {len(patterns)} entries exceed the limit of {_MAX_PATTERNS}")
        for pattern in patterns:
            parse(pattern)


def _check_numbers(spec: BackendSpec) -> None:
    for field, (least, most) in _LIMITS.items():
        value = getattr(spec.limits, field)
        if value is not None and not least <= value <= most:
            raise InvalidRequest(f"limits.{field} must be {least:.15g} to {most:.15g}, not {value:.15g}")
    timeout = spec.timeout
    if timeout is not None and not (math.isfinite(timeout) and 0 < timeout <= _MAX_TIMEOUT):
        raise InvalidRequest(f"timeout must be more than 0 and at most {_MAX_TIMEOUT:.15g} seconds, not {timeout:.15g}")
    ttl = spec.ttl
    if ttl is not None and not (math.isfinite(ttl) and 0 < ttl <= _MAX_TTL):
        raise InvalidRequest(f"ttl must be more than 0 and at most {_MAX_TTL:.15g} seconds, not {ttl:.15g}")
    lease = spec.handleLease
    if lease is not None and not (math.isfinite(lease) and 0 <= lease <= LONGEST_LEASE):
        raise InvalidRequest(f"handleLease must be 0 (never) to {LONGEST_LEASE:.15g} seconds, not {lease:.15g}")
    idle = spec.idleStop
    if idle is not None and not (math.isfinite(idle) and 1 <= idle <= _MAX_TTL):
        raise InvalidRequest(f"idleStop must be 1 to {_MAX_TTL:.15g} seconds, not {idle:.15g}")
    drain = spec.drainTimeout
    if drain is not None and not (math.isfinite(drain) and 0 <= drain <= LONGEST_DRAIN):
        raise InvalidRequest(f"drainTimeout must be 0 to {LONGEST_DRAIN:.15g} seconds, not {drain:.15g}")
    if spec.queueLimit is not None and not 0 <= spec.queueLimit <= MOST_QUEUED:
        raise InvalidRequest(f"queueLimit must be 0 to {MOST_QUEUED} calls, not {spec.queueLimit}")


def _parse_host(host: str) -> str:
    """Parse the address to publish on."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise InvalidRequest(
            f'host: "{host[:80]}" is not an address to publish on: write, for example, 127.0.0.1 or 0.0.0.0'
        ) from None


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def create_provider_name(provider: str, model: str | None) -> str:
    """Create the stable name of a provider's venv: a DNS label, with a digest unless it shows the exact provider.

    Raises:
        InvalidRequest: the text has no letter or digit.
    """
    text = "-".join(part for part in (provider, model) if part)
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not label:
        raise InvalidRequest(f'"{text[:80]}" cannot name a provider: it needs letters or digits')
    if model is None and label == provider and len(label) <= 50:
        return f"provider-{label}"
    digest = hashlib.sha256(f"{provider}\n{model or ''}".encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"provider-{label[:45].rstrip('-')}-{digest}"
