"""The local engine: backends are processes of this machine, venvs are directories."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import uv

from venvd_contract.errors import Unavailable, Unimplemented
from venvd_contract.resources import BACKEND_TYPES, Leftover, LogLine
from venvd_engines import archives, session_walls
from venvd_engines import requirements as rules
from venvd_engines.engine import (
    BackendState,
    Capabilities,
    EngineSettings,
    Image,
    Launch,
    LaunchRecord,
    Owned,
    Progress,
    RuntimeRef,
    VenvBuild,
)
from venvd_engines.local import environment, interpreters
from venvd_engines.local.launches import ENGINE, Launches, Place, to_launch_record
from venvd_engines.local.secret_files import SecretFiles, list_candidates
from venvd_engines.local.server_version import identify_server
from venvd_engines.local.starter import Starter
from venvd_engines.local.venvs import Tools, Venvs, size
from venvd_engines.locking import index_environment
from venvd_worker import archive
from venvd_worker.common import seccomp

_GAPS = (
    "User code runs as the user of the controller: it sees that user's processes, and reads the system's files.",
    "User code of a backend with `network` reaches this machine's own services too.",
    "Memory is limited for each session and not for the backend: there is no container around it.",
    "CPU time is not shared out, and the disk space that user code takes is not limited.",
    "Debian packages (aptPackages) cannot be installed.",
)
_OPEN_FILES = "User code can read and change the files of the controller's user, venvd's state among them."
_OPEN_NETWORK = "User code reaches the network, even if its venv or backend did not ask for it."
_NO_RUNTIMES = "VENVD_OCI_RUNTIME has no effect: the local engine has no containers."


class LocalEngine:
    """Runs backends as processes of this user; implements `Engine`."""

    name = ENGINE
    has_routers = False
    moving_types = frozenset({"pipe"})

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._env = environment.for_installer(_index(settings), _private_cache(settings.home))
        self._uv = uv.find_uv_bin()
        tools = Tools(self._uv, self._env, settings.build_timeout, settings.allow_source_builds)
        self._venvs = Venvs(settings.home / "venvs", tools)
        secrets = SecretFiles(settings.home_id, list_candidates(settings.run_dir), settings.home)
        place = Place(
            settings.home / "backends",
            settings.home_id,
            settings.run_dir,
            settings.pipe_name_dir,
            secrets,
            settings.controller_socket,
            (settings.home, settings.run_dir, secrets.root),
            settings.local_dirs,
        )
        self._launches = Launches(place)
        self._starter = Starter(place, self._launches, _server)

    def check(self) -> None:
        if sys.platform != "linux" or not Path("/proc/self/stat").exists():
            raise Unavailable("the local engine needs Linux with /proc")
        if not os.access(self._uv, os.X_OK):
            raise Unavailable(f"{self._uv} cannot be run: install the package uv")

    def capabilities(self) -> Capabilities:
        return Capabilities(
            apt_packages=False,
            network_isolation=False,
            filesystem_isolation=False,
            memory_wall=False,
            attach=True,
            gaps=tuple(self._list_gaps()),
        )

    def _list_gaps(self) -> Iterator[str]:
        yield from _GAPS
        yield from session_walls.list_gaps()
        if not session_walls.hides_files():
            yield _OPEN_FILES
        if not seccomp.is_known():
            yield _OPEN_NETWORK
        if self._settings.oci_runtime:
            yield _NO_RUNTIMES

    def count_processors(self) -> int:
        return len(os.sched_getaffinity(0))

    # ---- venvs ---------------------------------------------------------------------------------------------------

    def resolve(self, version: str, progress: Progress) -> RuntimeRef:
        return interpreters.find(version, self._uv, self._env, progress)

    def lock(
        self, runtime: RuntimeRef, requirements: Sequence[str], progress: Progress, constraints: Sequence[str] = ()
    ) -> str:
        lines = rules.check(requirements)
        return self._venvs.lock(runtime.base, runtime.resolved, lines, progress, rules.check(constraints))

    def build(self, venv: VenvBuild, progress: Progress) -> Image:
        if venv.apt_packages:
            raise Unimplemented(
                "the local engine installs no Debian packages, since they would change the whole machine: "
                f"install {', '.join(sorted(venv.apt_packages))} yourself, or use the engine docker"
            )
        return self._venvs.build(venv, progress)

    def adopt(self, folder: Path, checks: Sequence[str], progress: Progress) -> Image:
        return self._venvs.adopt(folder, checks, progress)

    def find_image(self, key: str) -> Image | None:
        return self._venvs.find(key)

    def remove_image(self, key: str) -> None:
        self._venvs.remove(key)

    # ---- backends ------------------------------------------------------------------------------------------------

    def prepare(self, backend_type: str, progress: Progress) -> None:
        progress.phase("prepare")
        module = _module(backend_type)
        if backend_type not in BACKEND_TYPES or importlib.util.find_spec(module) is None:
            raise Unimplemented(f'this installation has no server of the type "{backend_type}": {module} is missing')
        self._archive()

    def _archive(self) -> Path:
        return archive.build(self._settings.home / "worker")

    def identify_server(self, backend_type: str) -> str | None:
        return identify_server(backend_type)

    def claim_user_ids(self) -> Sequence[int]:
        return ()

    def make_manifest(self, launch: Launch, token: str | None, image: str | None) -> Sequence[Mapping[str, Any]]:  # noqa: ARG002 - there are no pods
        raise Unimplemented("a manifest is for pods, and the engine local has none: start the backend")

    def start(self, launch: Launch, progress: Progress) -> LaunchRecord:
        if launch.oci_runtime is not None:
            raise Unimplemented(
                f"ociRuntime: the local engine has no containers, and so no {launch.oci_runtime}: use the engine docker"
            )
        if launch.network in {"loopback", "destinations"}:
            kept = "a loopback of its own" if launch.network == "loopback" else "some destinations"
            raise Unimplemented(
                f"network: the local engine cannot keep user code to {kept}: use the engine docker, or give the "
                "backend the network"
            )
        return to_launch_record(self._starter.start(launch, self._archive(), progress))

    def inspect(self, record: LaunchRecord) -> BackendState:
        return self._launches.inspect(record.launch_id)

    def take_address(self, record: LaunchRecord, former: LaunchRecord) -> None:
        self._launches.take_address(record.launch_id, former.launch_id)

    def write_keys(self, record: LaunchRecord, data: bytes) -> None:
        self._launches.write_keys(record.launch_id, data)

    def write_secrets(self, record: LaunchRecord, data: bytes) -> None:
        self._launches.write_secrets(record.launch_id, data)

    def refresh_files(self, record: LaunchRecord) -> None:
        """Do nothing: the server sees the files of the host."""

    def stop(self, record: LaunchRecord, grace: float) -> None:
        self._launches.stop(record.launch_id, grace)

    def destroy(self, record: LaunchRecord, *, again: bool = False) -> None:  # noqa: ARG002 - clients name paths here
        self._launches.destroy(record.launch_id)

    def destroy_owned(self, owned: Owned) -> None:
        self._launches.destroy(owned.launch_id)

    def list_owned(self) -> Sequence[Owned]:
        return self._launches.list_owned()

    def watch(self) -> None:
        """Report nothing: `list_owned` costs little."""

    def leftovers(self, used: Collection[str]) -> Sequence[Leftover]:
        records = list(self._launches.records())
        cache = self._settings.home / "cache" / "uv"
        return [
            *self._venvs.leftovers({*used, *(record.venv_key for record in records)}),
            *archives.leftovers(self._settings.home / "worker", {record.archive for record in records}),
            *([Leftover("cache", str(cache), current=True, sizeBytes=size(cache))] if cache.is_dir() else []),
        ]

    def discard(self, leftover: Leftover) -> None:
        if leftover.kind == "venv":
            self._venvs.remove(Path(leftover.name).name)
        elif leftover.kind == "cache":
            shutil.rmtree(leftover.name, ignore_errors=True)
        else:
            archives.remove(leftover.name)

    def sweep(self) -> None:
        self._launches.sweep()
        self._venvs.sweep()

    def logs(self, record: LaunchRecord, tail: int | None, follow: bool) -> Iterator[LogLine]:
        return self._launches.logs(record.launch_id, tail, follow=follow)


def _module(backend_type: str) -> str:
    return f"venvd_{backend_type}_backend"


def _server(backend_type: str) -> list[str]:
    return [sys.executable, "-I", "-u", "-m", _module(backend_type)]


def _index(settings: EngineSettings) -> dict[str, str]:
    return index_environment(settings.index_url, str(settings.ca_bundle) if settings.ca_bundle else None)


def _private_cache(home: Path) -> Path | None:
    """Return a cache below the home if this user has no writable directory for one, else None."""
    user = os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME")
    return None if user and os.access(user, os.W_OK) else home / "cache" / "uv"
