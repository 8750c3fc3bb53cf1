"""Venvs as directories, built in place under a lock.

A venv cannot be moved, so a build works at its final path. Its last step writes the record `venvd.json`. A directory
without a record is not a venv, and the next build or `sweep` removes it. The installer inherits the descriptor of the
lock, so no other build begins while the installer of a killed controller still writes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from venvd_contract.errors import Internal, InUse, InvalidRequest, Unavailable
from venvd_contract.resources import Leftover, Package
from venvd_engines import import_check, locking
from venvd_engines.build_locks import BuildLocks, try_lock
from venvd_engines.dotnet import make_dotnet_env
from venvd_engines.engine import Image, Progress, VenvBuild
from venvd_engines.local import adoption, commands
from venvd_engines.local.processes import Identity, boot_id, identify, wait_until
from venvd_engines.local.state import write_whole

_RECORD = "venvd.json"
_RETIRED = ".retired-"
_KILL_SECONDS = 5.0
# the base interpreter runs this without `site`, so that no code of a package runs
_LIST_CODE = """
import importlib.metadata as metadata, json, sys
fields = [d.metadata or {} for d in metadata.distributions(path=[sys.argv[1]])]
named = [(each.get("Name"), each.get("Version")) for each in fields]
print(json.dumps(sorted({pair for pair in named if all(pair)})))
"""


@dataclass(frozen=True)
class Tools:
    """The installer of builds.

    Attributes:
        uv: the path of uv.
        env: the environment of uv; it names the package index.
        timeout: seconds that each command may take.
        source_builds: whether packages may be built from source.
    """

    uv: str
    env: Mapping[str, str]
    timeout: float
    source_builds: bool


class Venvs:
    """Builds, finds and removes the venvs below one directory."""

    def __init__(self, root: Path, tools: Tools) -> None:
        self._root = root
        self._tools = tools
        self._locks = BuildLocks(root)

    def lock(
        self,
        python: str,
        version: str,
        requirements: list[str],
        progress: Progress,
        constraints: Sequence[str] = (),
    ) -> str:
        """Resolve requirements for an interpreter, within constraints.

        Raises:
            InvalidRequest: the requirements cannot be resolved; the message says which and why.
            Unavailable: the package index does not answer.
        """
        progress.phase("lock")
        if not requirements:
            return ""
        with self._make_scratch() as folder:
            source, output = str(folder / "requirements.in"), str(folder / "requirements.lock")
            Path(source).write_text("".join(f"{line}\n" for line in requirements))
            limits = folder / "constraints.in"
            limits.write_text("".join(f"{line}\n" for line in constraints))
            arguments = locking.compile_arguments(
                source,
                output,
                python_version=version,
                python=python,
                constraints=str(limits) if constraints else None,
                source_builds=self._tools.source_builds,
            )
            self._uv(arguments, folder, progress)
            return locking.clean(Path(output).read_text())

    def find(self, key: str) -> Image | None:
        """Find the venv of a key. Return None if it is not built, or if its interpreter is gone."""
        try:
            record = json.loads((self._root / key / _RECORD).read_text())
            packages = [Package(name, version) for name, version in record["packages"]]
            adopted = record.get("adopted")
            image = Image(record["key"], adopted or str(self._root / key), record["python"], packages, bool(adopted))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return image if python_of(image).exists() else None

    def build(self, venv: VenvBuild, progress: Progress) -> Image:
        """Build a venv, unless one with the same key exists."""
        key = venv.key()
        self._make_root()
        with self._locks.hold(key, progress) as lock:
            _write_owner(lock, None)
            image = self.find(key)
            if image is not None:
                progress.log(f"the venv exists already: {image.ref}")
                self._check_imports(image, venv.imports, lock, progress, dotnet=venv.dotnet)
                return image
            self._retire(key)
            try:
                return self._fill(venv, key, lock, progress)
            except BaseException:
                self._retire(key)
                raise

    def adopt(self, folder: Path, checks: Sequence[str], progress: Progress) -> Image:
        """Record a virtual environment that another program made; see `Engine.adopt`."""
        progress.phase("adopt")
        self._make_root()
        interpreter = adoption.find_interpreter(folder, _plain(self._tools.env))
        packages = self._list_packages(str(interpreter.path), folder, None, progress)
        listed = [(package.name, package.version) for package in packages]
        key = adoption.make_key(folder, str(interpreter.version), listed)
        with self._locks.hold(key, progress) as lock:
            image = Image(key, str(folder), str(interpreter.version), packages, foreign=True)
            self._check_imports(image, checks, lock, progress)
            (self._root / key).mkdir(mode=0o700, exist_ok=True)
            self._write_record(image)
        return image

    def _fill(self, venv: VenvBuild, key: str, lock: int, progress: Progress) -> Image:
        folder = self._root / key
        base = venv.runtime.base
        progress.phase("environment")
        self._uv(["venv", str(folder), *_venv_arguments(base)], self._root, progress, lock)
        if venv.lock:
            progress.phase("install")
            requirements = folder / "requirements.lock"
            requirements.write_text(venv.lock)
            python = str(folder / "bin" / "python")
            source_builds = self._tools.source_builds
            arguments = locking.install_arguments(str(requirements), python=python, source_builds=source_builds)
            self._uv(arguments, folder, progress, lock)
            progress.phase("compile")
            self._compile(base, folder, lock, progress)
        progress.phase("check")
        packages = self._list_packages(base, folder, lock, progress)
        _check_pins(venv.lock, packages)
        image = Image(key, str(folder), venv.runtime.resolved, packages)
        self._check_imports(image, venv.imports, lock, progress, dotnet=venv.dotnet)
        self._write_record(image)
        return image

    def _check_imports(
        self, image: Image, modules: Sequence[str], lock: int, progress: Progress, *, dotnet: bool = False
    ) -> None:
        if modules:
            progress.phase("check imports")
            argv = [str(python_of(image)), "-I", "-B", "-c", import_check.CODE, *modules]
            env = {**_plain(self._tools.env), **(make_dotnet_env(image.ref, image.python) if dotnet else {})}
            result = self._run(argv, Path(image.ref), progress, lock=lock, env=env, show=None)
            import_check.check_outcome(modules, result.status, result.stderr)

    def _write_record(self, image: Image) -> None:
        packages = [(package.name, package.version) for package in image.packages]
        record = {"key": image.key, "python": image.python, "packages": packages}
        if image.foreign:
            record["adopted"] = image.ref
        write_whole(self._root / image.key / _RECORD, json.dumps(record, indent=1))

    def _compile(self, base: str, folder: Path, lock: int, progress: Progress) -> None:
        """Compile the packages to bytecode, but skip files that do not compile, such as those for Python 2.

        The base interpreter compiles them, so no code of a package runs.
        """
        argv = [base, "-I", "-S", "-m", "compileall", "-qq", "-j", "0", str(_site(folder))]
        self._run(argv, folder, progress, lock=lock, env=_plain(self._tools.env), show=None)

    def _list_packages(self, base: str, folder: Path, lock: int | None, progress: Progress) -> list[Package]:
        argv = [base, "-I", "-S", "-c", _LIST_CODE, str(_site(folder))]
        result = self._run(argv, folder, progress, lock=lock, env=_plain(self._tools.env))
        if result.status != 0:
            raise Internal(f"the packages of the venv cannot be listed: {result.stderr[-1000:]}")
        return [Package(name, version) for name, version in json.loads(result.stdout)]

    def _uv(self, arguments: list[str], folder: Path, progress: Progress, lock: int | None = None) -> None:
        result = self._run([self._tools.uv, *arguments], folder, progress, lock=lock, env=self._tools.env)
        if result.status != 0:
            raise locking.failure(result.stderr)

    def _run(
        self,
        argv: list[str],
        folder: Path,
        progress: Progress,
        *,
        lock: int | None,
        env: Mapping[str, str],
        show: Callable[[str], str] | None = locking.without_addresses,
    ) -> commands.Outcome:
        def write_owner(pid: int) -> None:
            if lock is not None:
                _write_owner(lock, identify(pid))

        return commands.run(
            argv,
            env=env,
            progress=progress,
            timeout=self._tools.timeout,
            cwd=folder,
            show=show,
            keep=() if lock is None else (lock,),
            started=write_owner,
        )

    def leftovers(self, used: Collection[str]) -> Iterator[Leftover]:
        """Yield the venvs whose keys are not `used`."""
        for record_path in sorted(self._root.glob(f"*/{_RECORD}")):
            folder = record_path.parent
            if folder.name not in used and not folder.name.startswith(_RETIRED):
                yield Leftover("venv", str(folder), current=False, sizeBytes=size(folder))

    def remove(self, key: str) -> None:
        """Remove a venv, or what a failed build left of it.

        Raises:
            InUse: a build of the venv is running.
        """
        self._make_root()
        with self._locks.try_hold(key) as lock:
            if lock is None:
                raise InUse(f"the venv {key} is being built")
            self._retire(key)

    def sweep(self) -> None:
        """End the installers of killed builds, and remove their partial venvs, locks and scratch folders."""
        if not self._root.is_dir():
            return
        for key in self._locks.list_keys():
            if not self._sweep_build(key) and _end_orphan(self._locks.path(key)):
                wait_until(functools.partial(self._sweep_build, key), _KILL_SECONDS)
        for path in sorted(self._root.glob(f"{_RETIRED}*")):
            _remove_unused(path)

    def _sweep_build(self, key: str) -> bool:
        """Remove the venv of a key if it is partial. Return False if a build holds its lock."""
        with self._locks.try_hold(key) as lock:
            if lock is not None and self.find(key) is None:
                self._retire(key)
            return lock is not None

    # ---- folders -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _make_scratch(self) -> Iterator[Path]:
        self._make_root()
        folder = self._root / f"{_RETIRED}{secrets.token_hex(6)}"
        folder.mkdir(mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try_lock(descriptor)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)

    def _retire(self, key: str) -> None:
        """Rename a venv, then delete it, so that a removal that is killed leaves no partial venv under the key."""
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


def size(folder: Path) -> int:
    """Return how many bytes the files below a folder occupy."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512  # noqa: PTH118 - of many files
    return total


def python_of(image: Image) -> Path:
    """Return the path of the interpreter of a venv."""
    return Path(image.ref) / "bin" / "python"


def _venv_arguments(base: str) -> list[str]:
    return ["--python", base, "--no-project", "--no-python-downloads", "--no-config", "--no-progress", "--quiet"]


def _site(folder: Path) -> Path:
    site = next((folder / "lib").glob("python3.*/site-packages"), None)
    if site is None:
        raise InvalidRequest(f"path: {folder} is no virtual environment: it has no lib/python3.*/site-packages")
    return site


def _plain(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without uv's settings, which may contain the credentials of an index."""
    return {name: value for name, value in env.items() if not name.startswith("UV_")}


def _check_pins(lock: str, packages: list[Package]) -> None:
    """Check that each package is installed in the version that the lock names."""
    installed: dict[str, str] = {canonicalize_name(package.name): package.version for package in packages}
    for name, version in locking.pins(lock).items():
        if installed.get(name) != version:
            raise Internal(f"{name} is locked as {version} and was installed as {installed.get(name, 'nothing')}")


def _remove_unused(folder: Path) -> None:
    """Remove a scratch folder that no process has locked."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        if try_lock(descriptor):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _write_owner(lock: int, installer: Identity | None) -> None:
    """Write the builder and its installer to the lock file, so that a sweep can find them if the builder is killed."""
    owner = identify(os.getpid())
    record = {"owner": owner and vars(owner), "installer": installer and vars(installer)}
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(record).encode(), 0)


def _end_orphan(lock: Path) -> bool:
    """End the installer of a builder that was killed.

    Return False if the builder still runs, or if the lock file cannot be read.
    """
    try:
        record = json.loads(lock.read_bytes())
        owner, installer = Identity(**record["owner"]), record["installer"] and Identity(**record["installer"])
    except (OSError, ValueError, TypeError, KeyError):
        return False
    if owner.alive():
        return False
    if installer and installer.boot == boot_id() and installer.alive():
        commands.end_group(installer.pid, signal.SIGKILL)
    return True
