"""The environments of a backend's processes: allow-lists, so that no variable of the controller leaks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from venvd_contract.internal.environment import WORKER_ENV

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_PLACES = ("TZ", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_NUMERIC", "LC_TIME", "LC_COLLATE", "LC_MESSAGES")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy")
_INSTALLER = (
    "UV_CACHE_DIR",
    "UV_DEFAULT_INDEX",
    "UV_FIND_LINKS",
    "UV_HTTP_TIMEOUT",
    "UV_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_INDEX_URL",
    "UV_KEYRING_PROVIDER",
    "UV_OFFLINE",
    "UV_PYTHON_INSTALL_DIR",
    "UV_PYTHON_INSTALL_MIRROR",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "PYENV_ROOT",
    "NETRC",
)


def _select(*names: str) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def for_installer(index: Mapping[str, str], cache: Path | None) -> dict[str, str]:
    """Make the environment of uv: indexes, certificates and caches. `index` overrides the controller's environment."""
    env = _select("PATH", "HOME", "TMPDIR", *_PLACES, *_CERTIFICATES, *_PROXIES, *_INSTALLER)
    env.setdefault("PATH", _SYSTEM_PATH)
    if cache is not None:
        env.setdefault("UV_CACHE_DIR", str(cache))
    return {**env, **index}


def for_supervisor() -> dict[str, str]:
    return {"PATH": _SYSTEM_PATH, **_select(*_PLACES)}


def for_server(directory: Path) -> dict[str, str]:
    """Make the environment of a server, without its settings."""
    own = {"PATH": _SYSTEM_PATH, "HOME": str(directory), "TMPDIR": str(directory / "tmp")}
    return {**own, **_select(*_PLACES, *_CERTIFICATES)}


def for_worker(directory: Path, user: Mapping[str, str]) -> dict[str, str]:
    """Make the environment of the worker host. The warden moves `VENVD_WORKER_ENV` into those of sessions."""
    return {
        "PATH": _SYSTEM_PATH,
        "HOME": str(directory / "work"),
        "TMPDIR": str(directory / "tmp"),
        **_select(*_PLACES, *_CERTIFICATES),
        WORKER_ENV: json.dumps(dict(user)),
    }
