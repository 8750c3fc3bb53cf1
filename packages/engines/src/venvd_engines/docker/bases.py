"""Base images: an official image pinned by digest where a registry answers, else what this machine holds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker.errors
import docker.utils

from venvd_contract.errors import InvalidRequest, NotFound, VenvdError
from venvd_contract.resources import check_version
from venvd_engines.docker import hardening, labels, patience
from venvd_engines.docker.site import Site
from venvd_engines.docker.translation import explanation
from venvd_engines.engine import Progress, RuntimeRef

OFFICIAL = "python:{version}-slim"
STAND_IN = "venvd-base"
"""Repository of the images that `make base-images` makes."""
SERVER_PYTHON = "3.13"
"""CPython of the servers' images where there is a choice."""
OLDEST_SERVER_PYTHON = (3, 11)

REGISTRY_PATIENCE = 20.0
"""Seconds that a registry has for its first word."""
REGISTRY_SILENCE = 300.0
"""Seconds for which a registry that did not answer is not asked again."""

_PROBE = (
    "import json, platform, sys; "
    "print(json.dumps([platform.python_implementation(), platform.python_version(), sys.executable]))"
)


@dataclass(frozen=True)
class Found:
    """An image on this machine: `name` as people know it, `ref` by digest or ID."""

    name: str
    ref: str


class Bases:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._silent_until = 0.0

    def resolve(self, version: str, progress: Progress) -> RuntimeRef:
        """The runtime of a version; see `Engine.resolve`."""
        check_version(version)
        found = self._template(version, progress) or self._local(f"{STAND_IN}:{version}")
        if found is None:
            raise NotFound(self._unknown(version))
        if found.name.startswith(f"{STAND_IN}:"):
            progress.log(f"using {found.name}, made from Debian's packages, in place of {self._wanted(version)}")
        exact = self._exact(found)
        if exact != version and not exact.startswith(f"{version}."):
            raise InvalidRequest(f"the base image {found.name} holds CPython {exact}, and {version} was asked for")
        progress.log(f"CPython {exact} from {found.name} ({found.ref})")
        return RuntimeRef(version=version, resolved=exact, base=found.ref)

    def for_servers(self, progress: Progress) -> str:
        """The image on which the servers' own images are built."""
        found = self._template(SERVER_PYTHON, progress) or self._local(f"{STAND_IN}:{SERVER_PYTHON}")
        if found is not None:
            return found.name
        usable = [version for version in self._versions() if _numbers(version) >= OLDEST_SERVER_PYTHON]
        if not usable:
            raise NotFound(self._unknown(SERVER_PYTHON))
        return f"{STAND_IN}:{usable[-1]}"

    def ensure(self, ref: str, progress: Progress) -> None:
        """Fetch the base of a runtime again where it is gone."""
        if self._local(ref) is None and self._pull(ref, progress) is None:
            raise NotFound(f"the base image {ref} is gone from this machine: init its runtime again")

    def _wanted(self, version: str) -> str:
        template = self._site.settings.base_image or OFFICIAL
        try:
            return template.format(version=version, minor=".".join(version.split(".")[:2]))
        except (KeyError, IndexError, ValueError):
            raise InvalidRequest(
                f'VENVD_BASE_IMAGE is "{template}": it may hold {{version}} and {{minor}} and no other braces'
            ) from None

    def _template(self, version: str, progress: Progress) -> Found | None:
        name = self._wanted(version)
        return self._pull(name, progress) or self._local(name)

    def _pull(self, name: str, progress: Progress) -> Found | None:
        """The image from its registry, or None where that does not answer or has none of the name."""
        if time.monotonic() < self._silent_until:
            return None
        repository, tag = docker.utils.parse_repository_tag(name)
        progress.log(f"asking the registry for {name}")
        try:
            for event in self._events(repository, tag, progress):
                if "error" in event:
                    raise docker.errors.APIError(event["error"])  # noqa: TRY301 - one place handles both kinds
        except docker.errors.NotFound:
            progress.log(f"the registry has no {name}")
            return None
        except docker.errors.APIError as error:
            progress.log(f"no image registry answers: {explanation(error)}")
            self._silent_until = time.monotonic() + REGISTRY_SILENCE
            return None
        return self._local(name)

    def _events(self, repository: str, tag: str | None, progress: Progress) -> Iterator[dict[str, Any]]:
        api = self._site.api
        doing = f"pull {repository}"

        def asked() -> Any:
            return api.pull(repository, tag=tag or "latest", stream=True, decode=True)

        try:
            stream = patience.result(asked, progress, seconds=REGISTRY_PATIENCE, doing=doing)
        except VenvdError as error:
            if error.code != "timeout":
                raise
            raise docker.errors.APIError(error.message) from None
        for event in patience.items(stream, progress, seconds=self._site.settings.build_timeout, doing=doing):
            if event.get("status") and "progress" not in event:
                progress.log(" ".join(filter(None, (event.get("id"), event["status"]))))
            yield event

    def _local(self, name: str) -> Found | None:
        try:
            image = self._site.api.inspect_image(name)
        except docker.errors.NotFound:
            return None
        repository, _ = docker.utils.parse_repository_tag(name)
        digests = [ref for ref in image.get("RepoDigests") or () if ref.partition("@")[0] == repository]
        return Found(name, digests[0] if digests else image["Id"])

    def _exact(self, found: Found) -> str:
        """The version of the image's CPython, asked of itself."""
        api = self._site.api
        config = hardening.host_config(api, memory_bytes=256 << 20, cpus=1, processes=32)
        container = hardening.neutral(
            api,
            found.ref,
            config=config,
            labels=self._site.labels(labels.HELPER),
            command=["python3", "-I", "-c", _PROBE],
            user=f"{labels.WORKER_UID}:{labels.SHARED_GID}",
        )
        try:
            implementation, version, _ = self._answer(api, container, found.name)
        finally:
            self._site.remove_container(container)
        if implementation != "CPython":
            raise InvalidRequest(f"the base image {found.name} holds {implementation}, not CPython")
        return str(version)

    @staticmethod
    def _answer(api: Any, container: str, name: str) -> list[str]:
        try:
            api.start(container)
        except docker.errors.APIError as error:
            raise InvalidRequest(f"the base image {name} has no python3 that starts: {explanation(error)}") from None
        status = api.wait(container, timeout=60)["StatusCode"]
        said = api.logs(container, stdout=True, stderr=status != 0).decode(errors="replace").strip()
        if status != 0:
            raise InvalidRequest(f"the python3 of the base image {name} ended with status {status}: {said[-500:]}")
        answer: list[str] = json.loads(said.splitlines()[-1])
        return answer

    def _versions(self) -> list[str]:
        """The versions of the stand-ins on this machine, oldest first."""
        tags = [tag for image in self._site.api.images(STAND_IN) for tag in image.get("RepoTags") or ()]
        names = {tag.rpartition(":")[2] for tag in tags}
        return sorted((name for name in names if name.replace(".", "").isdigit()), key=_numbers)

    def _unknown(self, version: str) -> str:
        there = self._versions()
        have = f"this machine holds {', '.join(there)}" if there else "this machine holds no base image"
        return (
            f"no base image for CPython {version}: {self._wanted(version)} cannot be had from a registry, and {have}; "
            "`make base-images` makes those of Debian's releases"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
