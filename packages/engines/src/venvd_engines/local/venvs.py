"""Venvs as directories: built in place under a lock, believed only once their record is written.

A venv cannot be moved, so a build works at its final path; `venvd.json`, written last, makes it a venv. A build that
was killed leaves a directory without that record, which the next build or `sweep` removes. The lock is an open file
that the installer inherits: as long as an installer of a killed controller still writes, nobody else does.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from venvd_contract.errors import Internal, InUse, Unavailable
from venvd_contract.resources import Leftover, Package
from venvd_engines import locking
from venvd_engines.engine import Image, Progress, VenvBuild
from venvd_engines.local import commands
from venvd_engines.local.processes import Identity, boot_id, identify, wait_until
from venvd_engines.local.state import write_whole

_RECORD = "venvd.json"
_RETIRED = ".retired-"
_TICK = 0.2
# the packages are read with the base interpreter and without `site`: nothing of theirs runs
_LIST = """
import importlib.metadata as metadata, json, sys
print(json.dumps(sorted({(d.metadata["Name"], d.version) for d in metadata.distributions(path=[sys.argv[1]])})))
"""


@dataclass(frozen=True)
class Tools:
    """What a build runs with: uv, its environment (index and certificates included), and its bounds."""

    uv: str
    env: Mapping[str, str]
    timeout: float
    source_builds: bool


class Venvs:
    def __init__(self, root: Path, tools: Tools) -> None:
        self._root = root
        self._tools = tools

    def lock(self, python: str, version: str, requirements: list[str], progress: Progress) -> str:
        """Resolve requirements for that interpreter.

        Raises:
            InvalidRequest: they cannot be resolved; says which and why.
            Unavailable: the package index is away.
        """
        progress.phase("lock")
        if not requirements:
            return ""
        with self._scratch() as folder:
            source, output = folder / "requirements.in", folder / "requirements.lock"
            source.write_text("".join(f"{line}\n" for line in requirements))
            arguments = locking.compile_arguments(
                str(source),
                str(output),
                python_version=version,
                python=python,
                source_builds=self._tools.source_builds,
            )
            self._uv(arguments, folder, progress)
            return locking.clean(output.read_text())

    def find(self, key: str) -> Image | None:
        """The venv of that key; None where it is not built, or where its interpreter is gone."""
        try:
            found = json.loads((self._root / key / _RECORD).read_text())
            packages = [Package(name, version) for name, version in found["packages"]]
            image = Image(found["key"], str(self._root / key), found["python"], packages)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return image if python_of(image).exists() else None

    def build(self, venv: VenvBuild, progress: Progress) -> Image:
        key = venv.key()
        with self._locked(key, progress) as lock:
            found = self.find(key)
            if found is not None:
                progress.log(f"found the venv {key}, built before")
                return found
            self._retire(key)
            try:
                return self._fill(venv, key, lock, progress)
            except BaseException:
                self._retire(key)
                raise

    def _fill(self, venv: VenvBuild, key: str, lock: int, progress: Progress) -> Image:
        folder = self._root / key
        base = venv.runtime.base
        progress.phase("environment")
        self._uv(["venv", str(folder), *_venv_arguments(base)], self._root, progress, lock)
        if venv.lock:
            progress.phase("install")
            listed = folder / "requirements.lock"
            listed.write_text(venv.lock)
            python = str(folder / "bin" / "python")
            install = locking.install_arguments(str(listed), python=python, source_builds=self._tools.source_builds)
            self._uv(install, folder, progress, lock)
            progress.phase("compile")
            self._compile(base, folder, lock, progress)
        progress.phase("check")
        packages = self._packages(base, folder, lock, progress)
        _check_pins(venv.lock, packages)
        image = Image(key, str(folder), venv.runtime.resolved, packages)
        self._write_record(image)
        return image

    def _write_record(self, image: Image) -> None:
        packages = [(package.name, package.version) for package in image.packages]
        record = {"key": image.key, "python": image.python, "packages": packages}
        write_whole(self._root / image.key / _RECORD, json.dumps(record, indent=1))

    def _compile(self, base: str, folder: Path, lock: int, progress: Progress) -> None:
        """Bytecode, by the base interpreter: it runs nothing of what was installed. Files that are no Python 3 stay."""
        argv = [base, "-I", "-S", "-m", "compileall", "-qq", "-j", "0", str(_site(folder))]
        self._run(argv, folder, progress, lock=lock, env=_plain(self._tools.env), show=None)

    def _packages(self, base: str, folder: Path, lock: int, progress: Progress) -> list[Package]:
        argv = [base, "-I", "-S", "-c", _LIST, str(_site(folder))]
        result = self._run(argv, folder, progress, lock=lock, env=_plain(self._tools.env))
        if result.status != 0:
            raise Internal(f"the packages of the venv cannot be listed: {result.complaints[-1000:]}")
        return [Package(name, version) for name, version in json.loads(result.output)]

    def _uv(self, arguments: list[str], folder: Path, progress: Progress, lock: int | None = None) -> None:
        result = self._run([self._tools.uv, *arguments], folder, progress, lock=lock, env=self._tools.env)
        if result.status != 0:
            raise locking.failure(result.complaints)

    def _run(
        self,
        argv: list[str],
        folder: Path,
        progress: Progress,
        *,
        lock: int | None,
        env: Mapping[str, str],
        show: Callable[[str], str] | None = locking.without_addresses,
    ) -> commands.Result:
        def note(pid: int) -> None:
            if lock is not None:
                _note_owner(lock, identify(pid))

        return commands.run(
            argv,
            env=env,
            progress=progress,
            timeout=self._tools.timeout,
            cwd=folder,
            show=show,
            keep=() if lock is None else (lock,),
            started=note,
        )

    def leftovers(self, used: Collection[str]) -> Iterator[Leftover]:
        """The venvs that are built, but for those whose keys are `used`."""
        for record in sorted(self._root.glob(f"*/{_RECORD}")):
            folder = record.parent
            if folder.name not in used and not folder.name.startswith(_RETIRED):
                yield Leftover("venv", str(folder), current=False, sizeBytes=size(folder))

    def remove(self, key: str) -> None:
        """Remove a venv, or what there is of it.

        Raises:
            InUse: it is being built.
        """
        with self._lock_file(key) as lock:
            if not _try_lock(lock):
                raise InUse(f"the venv {key} is being built")
            self._retire(key)
            self._lock_path(key).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed builds left: their installers, partial venvs, locks and scratch folders."""
        if not self._root.is_dir():
            return
        for path in sorted(self._root.glob("*.lock")):
            self._sweep_build(path.stem)
        for path in sorted(self._root.iterdir()):
            if path.name.startswith(_RETIRED):
                _remove_unused(path)

    def _sweep_build(self, key: str) -> None:
        with self._lock_file(key) as lock:
            if not _try_lock(lock) and not (_end_orphan(lock) and wait_until(lambda: _try_lock(lock), 5)):
                return
            if self.find(key) is None:
                self._retire(key)
            self._lock_path(key).unlink(missing_ok=True)

    # ---- folders and locks ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        self._make_root()
        folder = self._root / f"{_RETIRED}{secrets.token_hex(6)}"
        folder.mkdir(mode=0o700)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _try_lock(held)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(held)

    def _retire(self, key: str) -> None:
        """Take a venv away at once, then delete it: what a killed removal leaves is never taken for a venv."""
        retired = self._root / f"{_RETIRED}{secrets.token_hex(6)}"
        try:
            (self._root / key).rename(retired)
        except FileNotFoundError:
            return
        shutil.rmtree(retired, ignore_errors=True)

    def _make_root(self) -> None:
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"{self._root} cannot be made: {error}") from None

    def _lock_path(self, key: str) -> Path:
        return self._root / f"{key}.lock"

    @contextlib.contextmanager
    def _lock_file(self, key: str) -> Iterator[int]:
        self._make_root()
        descriptor = os.open(self._lock_path(key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self, key: str, progress: Progress) -> Iterator[int]:
        """The lock of a key, waited for until `progress` is cancelled."""
        told = False
        while True:
            with self._lock_file(key) as lock:
                if not told and not _try_lock(lock):
                    progress.phase("wait")
                    progress.log("another build of the same venv is running")
                    told = True
                if wait_until(functools.partial(_try_lock, lock), _TICK) and self._is_current(key, lock):
                    _note_owner(lock, None)
                    yield lock
                    return
            progress.check()

    def _is_current(self, key: str, lock: int) -> bool:
        """Whether the locked file is still the one at its path; a sweep may have removed it meanwhile."""
        with contextlib.suppress(OSError):
            return os.path.samestat(self._lock_path(key).stat(), os.fstat(lock))
        return False


def size(folder: Path) -> int:
    """Bytes that the files below a folder take."""
    found = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found += os.lstat(os.path.join(directory, name)).st_blocks * 512  # noqa: PTH118 - of many files
    return found


def python_of(image: Image) -> Path:
    """The interpreter of a venv."""
    return Path(image.ref) / "bin" / "python"


def _venv_arguments(base: str) -> list[str]:
    return ["--python", base, "--no-project", "--no-python-downloads", "--no-config", "--no-progress", "--quiet"]


def _site(folder: Path) -> Path:
    return next((folder / "lib").glob("python3.*/site-packages"))


def _plain(env: Mapping[str, str]) -> dict[str, str]:
    """The environment without uv's settings, which may hold an index's credentials."""
    return {name: value for name, value in env.items() if not name.startswith("UV_")}


def _check_pins(lock: str, packages: list[Package]) -> None:
    installed: dict[str, str] = {canonicalize_name(package.name): package.version for package in packages}
    for name, version in locking.pins(lock).items():
        if installed.get(name) != version:
            raise Internal(f"{name} is locked as {version} and was installed as {installed.get(name, 'nothing')}")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unused(folder: Path) -> None:
    """Remove a scratch folder that nobody holds."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        if _try_lock(held):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(held)


def _note_owner(lock: int, installer: Identity | None) -> None:
    """Write down who builds, and with which program, for a sweep that finds the lock held."""
    owner = identify(os.getpid())
    noted = {"owner": owner and vars(owner), "installer": installer and vars(installer)}
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(noted).encode(), 0)


def _end_orphan(lock: int) -> bool:
    """End the installer of a builder that is gone; False where the builder is still there."""
    try:
        noted = json.loads(os.pread(lock, 4096, 0))
        owner, installer = Identity(**noted["owner"]), noted["installer"] and Identity(**noted["installer"])
    except (ValueError, TypeError, KeyError):
        return False
    if owner.alive():
        return False
    if installer and installer.boot == boot_id() and installer.alive():
        commands.end_group(installer.pid, signal.SIGKILL)
    return True
