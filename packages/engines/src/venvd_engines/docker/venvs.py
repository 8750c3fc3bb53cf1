"""Venvs as images: locks, builds in a build container, checks in a fresh one."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import docker.errors

from venvd_contract.errors import InUse, InvalidRequest
from venvd_contract.resources import Package
from venvd_engines import locking, requirements
from venvd_engines.build_locks import BuildLocks
from venvd_engines.docker import hardening, labels, patience
from venvd_engines.docker.bases import Bases
from venvd_engines.docker.build_container import CA_BUNDLE, SCRATCH, BuildContainer, BuildContainers, must
from venvd_engines.docker.site import Site
from venvd_engines.engine import Image, Progress, RuntimeRef, VenvBuild

PREFIX = "/env"
REPOSITORY = "venvd/venv"

_ASKED = f"{SCRATCH}/requirements.in"
_LOCK = f"{SCRATCH}/requirements.txt"

_CHECK_SECONDS = 120.0
_CHECK = """
import importlib.metadata, json, platform
found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
print(json.dumps([platform.python_version(), sorted(found.items(), key=lambda item: item[0].lower())]))
"""

_APT = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "-o", "Dpkg::Use-Pty=0")
_APT_CLEAN = "find /var/cache/apt -type f -delete; rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log"


class Venvs:
    """Builds and finds the images of this home; a tagged one has passed its check."""

    def __init__(self, site: Site, bases: Bases, containers: BuildContainers) -> None:
        self._site = site
        self._bases = bases
        self._containers = containers
        self._locks = BuildLocks(site.settings.home / "builds")

    def lock(self, runtime: RuntimeRef, lines: Sequence[str], progress: Progress) -> str:
        asked = requirements.check(lines)
        if not asked:
            return ""
        self._bases.ensure(runtime.base, progress)
        with self._containers.open(runtime.base, progress) as container:
            container.write(_ASKED, "".join(f"{line}\n" for line in asked).encode())
            arguments = locking.compile_arguments(
                _ASKED,
                _LOCK,
                python_version=runtime.resolved,
                python=container.find_python(),
                source_builds=self._site.settings.allow_source_builds,
            )
            container.uv(arguments)
            return locking.clean(must(container.run(["cat", _LOCK], quiet=True), "read the lock"))

    def build(self, venv: VenvBuild, progress: Progress) -> Image:
        key = venv.key()
        with self._locks.hold(key, progress):
            found = self.find(key)
            if found is not None:
                progress.log(f"the image is there already: {found.ref}")
                return found
            self._bases.ensure(venv.runtime.base, progress)
            return self._built(venv, key, progress)

    def find(self, key: str) -> Image | None:
        """The image of a key that has passed its check, or None."""
        for image in self._site.api.images(filters=self._site.filters(labels.VENV, key=key)):
            if f"{REPOSITORY}:{self._tag(key)}" in (image.get("RepoTags") or ()):
                found = image["Labels"]
                packages = tuple(Package(name, version) for name, version in json.loads(found[labels.PACKAGES]))
                return Image(key=key, ref=image["Id"], python=found[labels.PYTHON], packages=packages)
        return None

    def accepted(self) -> Iterator[tuple[str, Any]]:
        """The images of this home that have passed their check, each with its tag."""
        for image in self._site.api.images(filters=self._site.filters(labels.VENV)):
            for tag in image.get("RepoTags") or ():
                if tag.startswith(f"{REPOSITORY}:{self._site.settings.home_id}-"):
                    yield tag, image

    @staticmethod
    def key(tag: str) -> str:
        """The key that a tag of `accepted` names."""
        return tag.rpartition("-")[2]

    def remove(self, key: str) -> None:
        for image in self._site.api.images(filters=self._site.filters(labels.VENV, key=key)):
            users = self._site.api.containers(all=True, filters={"ancestor": [image["Id"]]})
            if users:
                names = sorted({user["Labels"].get(labels.NAME, user["Names"][0].lstrip("/")) for user in users})
                raise InUse(f"the image {image['Id']} is used by {', '.join(names)}")
            with contextlib.suppress(docker.errors.ImageNotFound):
                self._site.api.remove_image(image["Id"], force=True)

    def sweep(self) -> None:
        """Remove images whose build did not end in a passed check."""
        for image in self._site.api.images(filters=self._site.filters(labels.VENV)):
            tags = [tag for tag in image.get("RepoTags") or () if not tag.startswith("<none>")]
            if not tags and not self._site.made_here(image["Labels"]):
                with contextlib.suppress(docker.errors.APIError):
                    self._site.api.remove_image(image["Id"])

    # ---- one build -------------------------------------------------------------------------------------------

    def _built(self, venv: VenvBuild, key: str, progress: Progress) -> Image:
        apt = requirements.check_apt(venv.apt_packages)
        with self._containers.open(venv.runtime.base, progress, root_work=bool(apt), key=key) as container:
            if apt:
                progress.phase("apt packages")
                self._install_apt(container, apt)
            progress.phase("install")
            container.make_venv(PREFIX)
            if venv.lock:
                container.write(_LOCK, venv.lock.encode())
                arguments = locking.install_arguments(
                    _LOCK,
                    python=container.find_python(),
                    prefix=PREFIX,
                    source_builds=self._site.settings.allow_source_builds,
                )
                container.uv(arguments)
            progress.phase("compile")
            packages = container.finish(PREFIX)
            progress.phase("commit")
            image = container.commit(self._configuration(venv, key, packages))
        return self._accepted(image, venv, key, packages, progress)

    def _accepted(
        self, image: str, venv: VenvBuild, key: str, packages: Sequence[Package], progress: Progress
    ) -> Image:
        try:
            progress.phase("check")
            self._check(image, venv.runtime.resolved, packages, progress)
            self._site.api.tag(image, REPOSITORY, self._tag(key))
        except BaseException:
            with contextlib.suppress(docker.errors.APIError):
                self._site.api.remove_image(image, force=True)
            raise
        return Image(key=key, ref=image, python=venv.runtime.resolved, packages=tuple(packages))

    def _install_apt(self, container: BuildContainer, names: Sequence[str]) -> None:
        env = {"DEBIAN_FRONTEND": "noninteractive", "HOME": SCRATCH, "LC_ALL": "C.UTF-8"}
        apt = [*_APT]
        if self._site.settings.ca_bundle:
            apt += ["-o", f"Acquire::https::CAInfo={CA_BUNDLE}"]
        must(container.run([*apt, "update"], env), "fetch Debian's package lists")
        outcome = container.run([*apt, "install", "-y", "--no-install-recommends", *names], env)
        must(outcome, f"install the Debian packages {', '.join(names)}", InvalidRequest)
        must(container.run(["sh", "-c", _APT_CLEAN], env), "remove apt's caches")

    def _configuration(self, venv: VenvBuild, key: str, packages: Sequence[Package]) -> dict[str, Any]:
        found = {
            **self._site.labels(labels.VENV, key=key, python=venv.runtime.resolved),
            labels.PACKAGES: json.dumps([[package.name, package.version] for package in packages]),
        }
        base = self._site.api.inspect_image(venv.runtime.base)["Config"] or {}
        return {
            "Cmd": [f"{PREFIX}/bin/python"],
            "Env": [f"PATH={PREFIX}/bin:{_path(base.get('Env') or ())}"],
            "User": f"{labels.WORKER_UID}:{labels.SHARED_GID}",
            "WorkingDir": "/",
            "Labels": found,
        }

    def _check(self, image: str, python: str, packages: Sequence[Package], progress: Progress) -> None:
        """Start the venv's Python where nothing of the build is left: no network, no cache, no root."""
        status, said = self._ask(image, progress)
        if status != 0:
            raise InvalidRequest(f"the venv's Python does not start: {said[-2000:]}")
        found = json.loads(said.splitlines()[-1])
        wanted = [python, [[package.name, package.version] for package in packages]]
        if found != wanted:
            raise InvalidRequest(f"the venv shows other packages than were installed: {found}, not {wanted}")

    def _ask(self, image: str, progress: Progress) -> tuple[int, str]:
        config = hardening.host_config(
            self._site.api,
            memory_bytes=1 << 30,
            cpus=1,
            processes=64,
            tmpfs={"/tmp": hardening.scratch(64 << 20, labels.WORKER_UID, labels.SHARED_GID)},  # noqa: S108
        )
        container = hardening.neutral(
            self._site.api,
            image,
            config=config,
            labels=self._site.labels(labels.CHECK),
            command=[f"{PREFIX}/bin/python", "-I", "-c", _CHECK],
        )
        try:
            self._site.api.start(container)
            wait = functools.partial(self._site.api.wait, container, timeout=_CHECK_SECONDS)
            status = patience.result(wait, progress, seconds=_CHECK_SECONDS, doing="check the image")["StatusCode"]
            said = self._site.api.logs(container, stdout=True, stderr=status != 0)
            return status, said.decode("utf-8", "replace").strip()
        finally:
            self._site.remove_container(container)

    def _tag(self, key: str) -> str:
        return f"{self._site.settings.home_id}-{key}"


def _path(env: Sequence[str]) -> str:
    """The search path of an image, or the usual one."""
    found = dict(entry.partition("=")[::2] for entry in env)
    return found.get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
