"""Venvs as images. The engine locks and builds them in a build container, and checks them in a fresh one."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import docker.errors

from venvd_contract.errors import InUse, InvalidRequest
from venvd_contract.resources import Package
from venvd_engines import import_check, locking, requirements
from venvd_engines.build_locks import BuildLocks
from venvd_engines.docker import cancellable, labels
from venvd_engines.docker.base_images import BaseImages
from venvd_engines.docker.build_container import (
    CA_BUNDLE,
    PROXY,
    SCRATCH,
    BuildContainer,
    BuildContainers,
    SharedFilesError,
    must,
)
from venvd_engines.docker.client import DockerClient, tmpfs_options
from venvd_engines.docker.parent_images import Parent, ParentImages
from venvd_engines.dotnet import make_dotnet_env
from venvd_engines.engine import Image, Progress, RuntimeRef, VenvBuild

PREFIX = "/env"
REPOSITORY = "venvd/venv"

_REQUIREMENTS = f"{SCRATCH}/requirements.in"
_CONSTRAINTS = f"{SCRATCH}/constraints.txt"
_LOCK = f"{SCRATCH}/requirements.txt"

CHECK_SECONDS = 120.0
CHECK_CODE = """
import importlib.metadata, json, platform
packages = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
print(json.dumps([platform.python_version(), sorted(packages.items(), key=lambda item: item[0].lower())]))
"""

_APT = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "-o", "Dpkg::Use-Pty=0")
_APT_CLEAN = "find /var/cache/apt -type f -delete; rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log"


class VenvImages:
    """Builds and finds the venv images of this home.

    An image gets its tag once it has passed its check. venvd uses no image without a tag.
    """

    def __init__(self, client: DockerClient, bases: BaseImages, containers: BuildContainers) -> None:
        self._client = client
        self._bases = bases
        self._containers = containers
        self._parents = ParentImages(client)
        self._locks = BuildLocks(client.settings.home / "builds")

    def lock(
        self, runtime: RuntimeRef, lines: Sequence[str], progress: Progress, constraints: Sequence[str] = ()
    ) -> str:
        """Resolve requirements; see `Engine.lock`."""
        checked_lines, checked_constraints = requirements.check(lines), requirements.check(constraints)
        if not checked_lines:
            return ""
        self._bases.ensure(runtime.base, progress)
        user_code = self._client.settings.allow_source_builds
        with self._containers.open(runtime.base, progress, user_code=user_code) as container:
            container.write(_REQUIREMENTS, "".join(f"{line}\n" for line in checked_lines).encode())
            if checked_constraints:
                container.write(_CONSTRAINTS, "".join(f"{line}\n" for line in checked_constraints).encode())
            arguments = locking.compile_arguments(
                _REQUIREMENTS,
                _LOCK,
                python_version=runtime.resolved,
                python=container.find_python(),
                constraints=_CONSTRAINTS if checked_constraints else None,
                source_builds=user_code,
            )
            container.uv(arguments)
            return locking.clean(must(container.run(["cat", _LOCK], quiet=True), "read the lock"))

    def build(self, venv: VenvBuild, progress: Progress) -> Image:
        """Build an image, check it and tag it, unless one with the same key exists."""
        key = venv.key()
        with self._locks.hold(key, progress):
            image = self.find(key)
            if image is not None:
                progress.log(f"the image exists already: {image.ref}")
                self._check_imports(image, venv, progress)
                return image
            self._bases.ensure(venv.runtime.base, progress)
            image = self._build_unchecked(venv, key, progress)
            try:
                progress.phase("check")
                self._check(image, progress)
                self._check_imports(image, venv, progress)
                self._client.api.tag(image.ref, REPOSITORY, self._tag(key))
            except BaseException:
                with contextlib.suppress(docker.errors.APIError):
                    self._client.api.remove_image(image.ref, force=True)
                raise
            return image

    def find(self, key: str) -> Image | None:
        """Return the checked image of a key, or None."""
        image = self._inspect(key)
        if image is None:
            return None
        image_labels = image["Config"]["Labels"]
        packages = json.loads(image_labels[labels.PACKAGES])
        return Image(
            key=key,
            ref=image["Id"],
            python=image_labels[labels.PYTHON],
            packages=tuple(Package(name, version) for name, version in packages),
        )

    def _inspect(self, key: str) -> Any:
        return self._client.inspect_image(f"{REPOSITORY}:{self._tag(key)}")

    def list_accepted(self) -> Iterator[tuple[str, Any]]:
        """Yield the checked images of this home, each after its tag."""
        tag_start = f"{REPOSITORY}:{self._tag('')}"
        for image in self._client.list_images(f"{tag_start}*"):
            for tag in image.get("RepoTags") or ():
                if tag.startswith(tag_start):
                    yield tag, image

    @staticmethod
    def key_of(tag: str) -> str:
        """Return the key in a tag that `list_accepted` yields."""
        return tag.rpartition("-")[2]

    def remove(self, key: str) -> None:
        """Remove the checked image of a key.

        Raises:
            InUse: a container uses it; the message names the backends.
        """
        image = self._inspect(key)
        if image is None:
            return
        users = self.list_users(image["Id"])
        if users:
            names = sorted({user["Labels"].get(labels.NAME, user["Names"][0].lstrip("/")) for user in users})
            raise InUse(f"the image {image['Id']} is used by {', '.join(names)}")
        self._remove_image(image)

    def list_users(self, ref: str) -> list[Any]:
        """Return the containers of an image, without the containers of images that were built on it."""
        try:
            users = self._client.api.containers(all=True, filters={"ancestor": [ref]})
        except docker.errors.NotFound:
            return []
        return [user for user in users if user["ImageID"] == ref]

    def _remove_image(self, image: Any) -> None:
        """Remove an image. If the engine keeps it for images that were built on it, remove its tags."""
        with contextlib.suppress(docker.errors.ImageNotFound):
            try:
                self._client.api.remove_image(image["Id"], force=True)
            except docker.errors.APIError as error:
                if error.status_code != HTTPStatus.CONFLICT or "dependent child images" not in str(error.explanation):
                    raise
                for tag in image.get("RepoTags") or ():
                    self._client.api.remove_image(tag)

    def sweep(self) -> None:
        """Remove the images of killed builds: no check has accepted them."""
        for image in self._client.list_images(None):
            if image["Labels"].get(labels.ROLE) == labels.VENV and not self._client.is_made_here(image["Labels"]):
                with contextlib.suppress(docker.errors.APIError):
                    self._client.api.remove_image(image["Id"])

    # ---- one build -------------------------------------------------------------------------------------------

    def _build_unchecked(self, venv: VenvBuild, key: str, progress: Progress) -> Image:
        """Build on an image that has a part of the lock, or else on the runtime's image."""
        parent = self._parents.find(venv, f"{REPOSITORY}:{self._tag('')}")
        if parent is not None:
            try:
                return self._build_on(parent, venv, key, progress)
            except SharedFilesError as error:
                progress.log(f"{error}: building from nothing")
            except docker.errors.ImageNotFound:
                progress.log("the image to build on was removed: building from nothing")
        return self._build_on(None, venv, key, progress)

    def _build_on(self, parent: Parent | None, venv: VenvBuild, key: str, progress: Progress) -> Image:
        apt_packages = requirements.check_apt(venv.apt_packages)
        user_code = self._client.settings.allow_source_builds
        with self._containers.open(
            venv.runtime.base,
            progress,
            parent=None if parent is None else parent.ref,
            root_work=bool(apt_packages),
            user_code=user_code,
            key=key,
        ) as container:
            if apt_packages:
                progress.phase("apt packages")
                self._install_apt(container, apt_packages)
            progress.phase("install")
            if parent is None:
                container.make_venv(PREFIX)
            else:
                progress.log(f"adding {', '.join(parent.added)} to {parent.ref}")
            if venv.lock:
                container.write(_LOCK, venv.lock.encode())
                python = container.find_python()
                container.uv(locking.install_arguments(_LOCK, python=python, prefix=PREFIX, source_builds=user_code))
            progress.phase("compile")
            packages = container.post_install(PREFIX, () if parent is None else parent.added)
            progress.phase("commit")
            ref = container.commit(self._make_config(venv, key, packages))
        return Image(key=key, ref=ref, python=venv.runtime.resolved, packages=tuple(packages))

    def _install_apt(self, container: BuildContainer, names: Sequence[str]) -> None:
        env = {"DEBIAN_FRONTEND": "noninteractive", "HOME": SCRATCH, "LC_ALL": "C.UTF-8"}
        apt_get = [*_APT, "-o", f"Acquire::http::Proxy={PROXY}", "-o", f"Acquire::https::Proxy={PROXY}"]
        apt_get += ["-o", "Acquire::http::Pipeline-Depth=0"]
        if self._client.settings.ca_bundle:
            apt_get += ["-o", f"Acquire::https::CAInfo={CA_BUNDLE}"]
        must(container.run([*apt_get, "update"], env), "fetch Debian's package lists")
        known = must(container.run(["apt-cache", "pkgnames"], env, quiet=True), "list Debian's packages").split()
        requirements.check_apt_known(names, set(known))
        install = [*apt_get, "install", "-y", "--no-install-recommends", "--no-remove"]
        install_outcome = container.run([*install, *names], env)
        must(install_outcome, f"install the Debian packages {', '.join(names)}", InvalidRequest)
        must(container.run(["sh", "-c", _APT_CLEAN], env), "remove apt's caches")

    def _make_config(self, venv: VenvBuild, key: str, packages: Sequence[Package]) -> dict[str, Any]:
        """Return the configuration of the image, with the labels that `find` reads."""
        return {
            "Cmd": [f"{PREFIX}/bin/python"],
            "Env": [f"PATH={PREFIX}/bin:{self._client.find_path(venv.runtime.base)}"],
            "User": f"{labels.WORKER_UID}:{labels.SHARED_GID}",
            "WorkingDir": "/",
            "Labels": {
                **self._client.labels(labels.VENV, key=key, python=venv.runtime.resolved),
                **self._parents.describe(venv),
                labels.PACKAGES: json.dumps([[package.name, package.version] for package in packages]),
            },
        }

    def _check(self, image: Image, progress: Progress) -> None:
        """Start the venv's Python, and compare its packages with those that the build installed."""
        status, output = self._run_python(image, [CHECK_CODE], CHECK_SECONDS, progress)
        if status != 0:
            raise InvalidRequest(f"the venv's Python does not start: {output[-2000:]}")
        reported = json.loads(output.splitlines()[-1])
        installed = [image.python, [[package.name, package.version] for package in image.packages]]
        if reported != installed:
            raise InvalidRequest(f"the venv shows other packages than venvd installed: {reported}, not {installed}")

    def _check_imports(self, image: Image, venv: VenvBuild, progress: Progress) -> None:
        if venv.imports:
            progress.phase("check imports")
            env = make_dotnet_env(PREFIX, image.python) if venv.dotnet else {}
            code = [import_check.CODE, *venv.imports]
            status, output = self._run_python(image, code, import_check.SECONDS, progress, env)
            import_check.check_outcome(venv.imports, status, output)

    def _run_python(
        self,
        image: Image,
        arguments: Sequence[str],
        seconds: float,
        progress: Progress,
        env: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """Run code with the venv's Python without network, cache or root; return its status and its output.

        The first argument is the code. The output of a program that failed includes its standard error.
        """
        with self._client.temporary_container(
            image.ref,
            labels=self._client.labels(labels.CHECK),
            memory_bytes=1 << 30,
            cpus=1,
            processes=64,
            tmpfs={"/tmp": tmpfs_options(64 << 20, labels.WORKER_UID, labels.SHARED_GID)},  # noqa: S108
            environment={"HOME": "/tmp", **(env or {})},  # noqa: S108
            command=[f"{PREFIX}/bin/python", "-I", "-c", *arguments],
        ) as container:
            self._client.api.start(container)
            wait_for_exit = functools.partial(self._client.api.wait, container, timeout=seconds)
            result = cancellable.call(wait_for_exit, progress, seconds=seconds, doing="check the image")
            status = int(result["StatusCode"])
            return status, self._client.read_logs(container, stderr=status != 0)

    def _tag(self, key: str) -> str:
        return f"{self._client.settings.home_id}-{key}"
