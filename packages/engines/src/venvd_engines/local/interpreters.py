"""CPythons of this machine. uv finds or fetches them, and each must answer a question before use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from venvd_contract.errors import InvalidRequest, NotFound, VenvdError
from venvd_contract.resources import check_version
from venvd_engines.engine import Progress, RuntimeRef
from venvd_engines.local import commands
from venvd_engines.locking import explain, without_addresses

OLDEST = Version("3.9")
"""The oldest CPython that the worker runs on."""
_FETCH_SECONDS = 180.0
_LIST_SECONDS = 60.0
_ASK_SECONDS = 20.0
_QUESTION = """
import json, os, platform, sys
print(json.dumps({
    "name": sys.implementation.name,
    "version": platform.python_version(),
    "threads": bool(getattr(sys, "_is_gil_enabled", lambda: True)()),
    "path": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A CPython that answered; `path` is the real program, not a link, not a shim, and not in a venv."""

    version: Version
    path: Path


def find(version: str, uv: str, env: Mapping[str, str], progress: Progress) -> RuntimeRef:
    """Find the newest CPython of a version. If this machine has none, fetch it.

    Raises:
        InvalidRequest: the version is invalid, or too old for the worker.
        NotFound: there is none; the message lists the versions of this machine, and says why the fetch failed.
    """
    if Version(check_version(version)).release[:2] < OLDEST.release:
        raise InvalidRequest(f"CPython {version} is too old: {OLDEST} or newer is needed")
    progress.phase("find")
    known = list_installed(uv, env, progress)
    chosen = choose(version, known)
    if chosen is None:
        reason = _fetch(version, uv, env, progress)
        known = list_installed(uv, env, progress)
        chosen = choose(version, known)
        if chosen is None:
            raise NotFound(_explain_absence(version, known, reason))
    progress.log(f"CPython {chosen.version} at {chosen.path}")
    return RuntimeRef(version, str(chosen.version), str(chosen.path))


def choose(version: str, known: Iterable[Interpreter]) -> Interpreter | None:
    """Choose the newest interpreter of a version. A final release goes before any pre-release."""
    parts = version.split(".")
    if len(parts) == 3:
        matching = [each for each in known if each.version == Version(version)]
    else:
        matching = [each for each in known if each.version.release[:2] == Version(version).release[:2]]
    matching.sort(key=lambda each: (not each.version.is_prerelease, each.version), reverse=True)
    return matching[0] if matching else None


def list_installed(uv: str, env: Mapping[str, str], progress: Progress) -> list[Interpreter]:
    """List every usable CPython once, in the order of uv's preference. The one that runs this program comes last."""
    interpreters: dict[Path, Interpreter] = {}
    for path in _candidates(uv, env, progress):
        real = path.resolve()
        if real not in interpreters:
            progress.check()
            answer = ask(real, env)
            if answer is not None:
                interpreters.setdefault(answer.path, answer)
    return list(interpreters.values())


def _candidates(uv: str, env: Mapping[str, str], progress: Progress) -> Iterator[Path]:
    argv = [uv, "python", "list", "--only-installed", "--output-format", "json", "--no-config", "--no-progress"]
    searched = {**env, "PATH": search_path(env)}
    result = commands.run(argv, env=searched, progress=progress, timeout=_LIST_SECONDS, cwd=Path("/"), show=None)
    try:
        entries = json.loads(result.stdout)
    except ValueError:
        entries = []
    for entry in entries:
        if entry.get("implementation") == "cpython" and entry.get("variant", "default") == "default":
            yield Path(entry["path"])
    yield Path(getattr(sys, "_base_executable", None) or sys.executable)


def search_path(env: Mapping[str, str]) -> str:
    """Make a PATH with pyenv's interpreters instead of its shims: a shim works for one version and fails for others."""
    root = Path(env.get("PYENV_ROOT") or Path(env.get("HOME", "/")) / ".pyenv")
    versions = sorted((root / "versions").glob("3.*/bin")) if root.is_dir() else []
    given = [part for part in env.get("PATH", os.defpath).split(os.pathsep) if not part.endswith("/shims")]
    return os.pathsep.join([*given, *map(str, versions)])


def ask(path: Path, env: Mapping[str, str]) -> Interpreter | None:
    """Return the interpreter at `path`, or None if it is not a CPython with a GIL that the worker supports."""
    try:
        answer = subprocess.run(
            [path, "-I", "-S", "-c", _QUESTION],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK_SECONDS,
            check=True,
        )
        description = json.loads(answer.stdout)
        version = Version(description["version"].rstrip("+"))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, InvalidVersion):
        return None
    usable = description["name"] == "cpython" and description["threads"] and version.release[:2] >= OLDEST.release
    return Interpreter(version, Path(description["path"])) if usable else None


def _fetch(version: str, uv: str, env: Mapping[str, str], progress: Progress) -> str:
    """Install a version with uv for this user. Return the reason of a failure, or an empty text."""
    progress.phase("fetch")
    argv = [uv, "python", "install", version, "--no-bin", "--no-config", "--no-progress", "--color", "never"]
    installer_env = {"UV_HTTP_RETRIES": "1", **env}
    try:
        result = commands.run(
            argv, env=installer_env, progress=progress, timeout=_FETCH_SECONDS, cwd=Path("/"), show=without_addresses
        )
    except VenvdError as error:
        if error.code == "cancelled":
            raise
        return error.message
    return "" if result.status == 0 else explain(result.stderr).replace("the package index", "its source")


def _explain_absence(version: str, known: Iterable[Interpreter], reason: str) -> str:
    versions = ", ".join(dict.fromkeys(str(each.version) for each in sorted(known, key=lambda each: each.version)))
    fetched = f", and it could not be fetched ({reason})" if reason else ""
    return f"this machine has no CPython {version}{fetched}; it has {versions or 'none that can be used'}"
