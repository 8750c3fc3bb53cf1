"""What callers may ask for, checked before anything is kept."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from venvd_contract.errors import Forbidden, InvalidRequest
from venvd_contract.resources import BACKEND_TYPES, BackendSpec, VenvSpec, check_name, check_version
from venvd_engines import requirements

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,98}[A-Za-z0-9])?")
_SOCKET_DIR = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MOST = 200
"""Variables or labels of one venv or backend."""
_LONGEST = 32_768
"""Characters of a variable's or label's value."""
_LIMITS = {"memoryBytes": (16 << 20, 1 << 50), "cpus": (0.01, 4096.0), "processes": (8, 1 << 22)}
_LONGEST_TIMEOUT = 7 * 24 * 3600.0


def checked_venv(spec: VenvSpec) -> VenvSpec:
    """A specification whose every field is right, requirements in their canonical form.

    Raises:
        InvalidRequest: says which field, and what would be right.
    """
    if spec.python is not None:
        check_version(spec.python)
    _check_pairs("env", spec.env)
    _check_pairs("labels", spec.labels)
    return replace(
        spec,
        requirements=requirements.check(spec.requirements),
        aptPackages=requirements.check_apt(spec.aptPackages),
        preload=requirements.check_modules(spec.preload),
    )


def checked_backend(spec: BackendSpec, run_dir: Path) -> BackendSpec:
    """A specification whose every field is right, a directory of sockets given by its name in `run_dir`.

    Raises:
        InvalidRequest: says which field, and what would be right.
        Forbidden: it would be open to the network without a token.
    """
    if spec.type not in BACKEND_TYPES:
        raise InvalidRequest(f'"{spec.type[:40]}" is no type of backend: {", ".join(BACKEND_TYPES)}')
    if spec.name is not None:
        check_name("backend", spec.name)
    check_name("venv", spec.venv)
    _check_pairs("env", spec.env)
    _check_pairs("labels", spec.labels)
    _check_numbers(spec)
    host = _address(spec.host)
    if not spec.token and spec.type != "pipe" and not is_loopback(host):
        raise Forbidden(f"a backend without a token is served on loopback or a socket only, not on {host}")
    return replace(spec, host=host, socketDir=_socket_dir(spec, run_dir))


def _socket_dir(spec: BackendSpec, run_dir: Path) -> str | None:
    given = spec.socketDir
    if given is None:
        return None
    if spec.type != "pipe":
        raise InvalidRequest(f"socketDir: a backend of type {spec.type} has none, it is reached by its port")
    path = run_dir / os.path.normpath(given)
    below = "\0" not in given and os.path.realpath(path.parent) == os.path.realpath(run_dir)
    if not below or not _SOCKET_DIR.fullmatch(path.name):
        raise InvalidRequest(
            f'socketDir: "{given[:200]}" is not directly below the run directory {run_dir}: name it as {run_dir}/app '
            "or app, in letters, digits, - and _ (the run directory is the controller's VENVD_RUN_DIR)"
        )
    return path.name


def socket_name(spec: BackendSpec, home_id: str, name: str) -> str | None:
    """The name of a backend's directory of sockets: short, since their paths are, and two homes may share a run
    directory.
    """
    if spec.type != "pipe":
        return None
    return spec.socketDir or hashlib.sha256(f"{home_id}/{name}".encode()).hexdigest()[:10]


def _check_pairs(field: str, pairs: Mapping[str, str]) -> None:
    rule = _ENV_NAME if field == "env" else _LABEL_NAME
    if len(pairs) > _MOST:
        raise InvalidRequest(f"{field}: {len(pairs)} entries are more than the limit of {_MOST}")
    for name, value in pairs.items():
        if not rule.fullmatch(name) or (field == "env" and name.startswith("VENVD_")):
            what = "variable of user code" if field == "env" else "label"
            raise InvalidRequest(f'{field}: "{name[:80]}" is no name for a {what}')
        if "\0" in value or len(value) > _LONGEST:
            raise InvalidRequest(f"{field}.{name}: at most {_LONGEST} characters, and none of them NUL")


def _check_numbers(spec: BackendSpec) -> None:
    if spec.port is not None:
        if spec.type == "pipe":
            raise InvalidRequest("port: a pipe backend has none, it is reached by its socket")
        if not 1 <= spec.port <= 65535:
            raise InvalidRequest(f"port must be 1 to 65535, not {spec.port}")
    for field, (least, most) in _LIMITS.items():
        value = getattr(spec.limits, field)
        if value is not None and not least <= value <= most:
            raise InvalidRequest(f"limits.{field} must be {least:g} to {most:g}, not {value:g}")
    timeout = spec.timeout
    if timeout is not None and not (math.isfinite(timeout) and 0 < timeout <= _LONGEST_TIMEOUT):
        raise InvalidRequest(f"timeout must be more than 0 and at most {_LONGEST_TIMEOUT:g} seconds, not {timeout:g}")


def _address(host: str) -> str:
    """The address to publish on, as the engines take it."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise InvalidRequest(
            f'host: "{host[:80]}" is no address to publish on: write it as 127.0.0.1 or 0.0.0.0'
        ) from None


def is_loopback(host: str) -> bool:
    """Whether an address to publish on is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def provider_name(provider: str, model: str | None) -> str:
    """The stable name of a provider's venv: a DNS label, with a digest where the two cannot be read off it again."""
    text = "-".join(part for part in (provider, model) if part)
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not label:
        raise InvalidRequest(f'"{text[:80]}" names no provider: letters or digits are needed')
    if model is None and label == provider and len(label) <= 50:
        return f"provider-{label}"
    digest = hashlib.sha256(f"{provider}\n{model or ''}".encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"provider-{label[:45].rstrip('-')}-{digest}"
