"""What the processes of a backend find in their environment: allow-lists, so that nothing of the controller's leaks."""

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


def _given(*names: str) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def of_installer(index: Mapping[str, str], cache: Path | None) -> dict[str, str]:
    """For uv: where to fetch from, what to trust, where to keep it; `index` wins over the environment."""
    env = _given("PATH", "HOME", "TMPDIR", *_PLACES, *_CERTIFICATES, *_PROXIES, *_INSTALLER)
    env.setdefault("PATH", _SYSTEM_PATH)
    if cache is not None:
        env.setdefault("UV_CACHE_DIR", str(cache))
    return {**env, **index}


def of_supervisor() -> dict[str, str]:
    return {"PATH": _SYSTEM_PATH, **_given(*_PLACES)}


def of_server(directory: Path) -> dict[str, str]:
    """For a server, without its settings."""
    own = {"PATH": _SYSTEM_PATH, "HOME": str(directory), "TMPDIR": str(directory / "tmp")}
    return {**own, **_given(*_PLACES, *_CERTIFICATES)}


def of_worker(directory: Path, user: Mapping[str, str]) -> dict[str, str]:
    """For the worker host; the warden takes `VENVD_WORKER_ENV` out and gives it to sessions."""
    return {
        "PATH": _SYSTEM_PATH,
        "HOME": str(directory / "work"),
        "TMPDIR": str(directory / "tmp"),
        **_given(*_PLACES, *_CERTIFICATES),
        WORKER_ENV: json.dumps(dict(user)),
    }
