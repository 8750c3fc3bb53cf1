"""Base images: an official image pinned by digest if a registry answers, else an image of this machine."""

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
from venvd_engines.docker import cancellable, labels
from venvd_engines.docker.client import DockerClient
from venvd_engines.docker.translation import explain
from venvd_engines.engine import Progress, RuntimeRef

OFFICIAL = "python:{version}-slim"
STAND_IN = "venvd-base"
"""Repository of the images that `make base-images` makes."""
SERVER_PYTHON = "3.13"
"""The CPython of the servers' images, if there is a choice."""
OLDEST_SERVER_PYTHON = (3, 11)

REGISTRY_TIMEOUT = 20.0
"""Seconds within which a registry must begin its answer."""
REGISTRY_RETRY = 300.0
"""Seconds before the next request to a registry that did not answer."""

_PROBE = "import json, platform; print(json.dumps([platform.python_implementation(), platform.python_version()]))"


@dataclass(frozen=True)
class LocalImage:
    """An image on this machine: `name` is its tag, `ref` a digest or an ID."""

    name: str
    ref: str


class BaseImages:
    def __init__(self, client: DockerClient) -> None:
        self._client = client
        self._next_request = 0.0

    def resolve(self, version: str, progress: Progress) -> RuntimeRef:
        """Return the runtime of a version; see `Engine.resolve`."""
        check_version(version)
        image = self._find(version, progress)
        if image is None:
            raise self._not_found(version)
        if image.name.startswith(f"{STAND_IN}:"):
            progress.log(f"using {image.name}, made from Debian's packages, in place of {self._format_name(version)}")
        exact = self._probe_version(image)
        if exact != version and not exact.startswith(f"{version}."):
            raise InvalidRequest(f"the base image {image.name} holds CPython {exact}, and {version} was asked for")
        progress.log(f"CPython {exact} from {image.name} ({image.ref})")
        return RuntimeRef(version=version, resolved=exact, base=image.ref)

    def find_for_servers(self, progress: Progress) -> str:
        """Return the name of the image that server images are built on."""
        image = self._find(SERVER_PYTHON, progress)
        if image is not None:
            return image.name
        usable = [version for version in self._list_stand_ins() if _numbers(version) >= OLDEST_SERVER_PYTHON]
        if not usable:
            raise self._not_found(SERVER_PYTHON)
        return f"{STAND_IN}:{usable[-1]}"

    def find_local(self, version: str) -> str | None:
        """Return the name of this machine's image of a version, or None. This asks no registry."""
        names = (self._format_name(version), f"{STAND_IN}:{version}")
        return next((name for name in names if self._inspect(name) is not None), None)

    def ensure(self, ref: str, progress: Progress) -> None:
        """Pull the base image of a runtime again if it was removed."""
        if self._inspect(ref) is None and self._pull(ref, progress) is None:
            raise NotFound(f"the base image {ref} is gone from this machine: init its runtime again")

    def _find(self, version: str, progress: Progress) -> LocalImage | None:
        """Return the official image, pulled if a registry has it, else the stand-in."""
        name = self._format_name(version)
        return self._pull(name, progress) or self._inspect(name) or self._inspect(f"{STAND_IN}:{version}")

    def _format_name(self, version: str) -> str:
        template = self._client.settings.base_image or OFFICIAL
        try:
            return template.format(version=version, minor=".".join(version.split(".")[:2]))
        except (KeyError, IndexError, ValueError):
            raise InvalidRequest(
                f'VENVD_BASE_IMAGE is "{template}": it may hold {{version}} and {{minor}} and no other braces'
            ) from None

    def _pull(self, name: str, progress: Progress) -> LocalImage | None:
        """Pull an image from its registry. Return None if the registry does not answer, or has no such image."""
        if time.monotonic() < self._next_request:
            return None
        repository, tag = docker.utils.parse_repository_tag(name)
        progress.log(f"asking the registry for {name}")
        try:
            for event in self._request_pull(repository, tag, progress):
                if "error" in event:
                    raise docker.errors.APIError(event["error"])  # noqa: TRY301 - one place handles both kinds
        except docker.errors.NotFound:
            progress.log(f"the registry has no {name}")
            return None
        except docker.errors.APIError as error:
            progress.log(f"no image registry answers: {explain(error)}")
            self._next_request = time.monotonic() + REGISTRY_RETRY
            return None
        return self._inspect(name)

    def _request_pull(self, repository: str, tag: str | None, progress: Progress) -> Iterator[dict[str, Any]]:
        """Yield the engine's messages about a pull, and log all of them but the progress bars."""
        api = self._client.api
        doing = f"pull {repository}"

        def request() -> Any:
            return api.pull(repository, tag=tag or "latest", stream=True, decode=True)

        try:
            stream = cancellable.call(request, progress, seconds=REGISTRY_TIMEOUT, doing=doing)
        except VenvdError as error:
            if error.code != "timeout":
                raise
            raise docker.errors.APIError(error.message) from None
        for event in cancellable.iterate(stream, progress, seconds=self._client.settings.build_timeout, doing=doing):
            if event.get("status") and "progress" not in event:
                progress.log(" ".join(filter(None, (event.get("id"), event["status"]))))
            yield event

    def _inspect(self, name: str) -> LocalImage | None:
        image = self._client.inspect_image(name)
        if image is None:
            return None
        repository, _ = docker.utils.parse_repository_tag(name)
        digests = [ref for ref in image.get("RepoDigests") or () if ref.partition("@")[0] == repository]
        return LocalImage(name, digests[0] if digests else image["Id"])

    def _probe_version(self, image: LocalImage) -> str:
        """Run the image's CPython, and return its exact version."""
        api = self._client.api
        with self._client.temporary_container(
            image.ref,
            labels=self._client.labels(labels.HELPER),
            memory_bytes=256 << 20,
            cpus=1,
            processes=32,
            command=["python3", "-I", "-c", _PROBE],
            user=f"{labels.WORKER_UID}:{labels.SHARED_GID}",
        ) as container:
            try:
                api.start(container)
            except docker.errors.APIError as error:
                raise InvalidRequest(f"the base image {image.name} has no working python3: {explain(error)}") from None
            status = api.wait(container, timeout=60)["StatusCode"]
            output = self._client.read_logs(container, stderr=status != 0)
        if status != 0:
            raise InvalidRequest(f"the python3 of the base image {image.name} exited with {status}: {output[-500:]}")
        implementation, version = json.loads(output.splitlines()[-1])
        if implementation != "CPython":
            raise InvalidRequest(f"the base image {image.name} holds {implementation}, not CPython")
        return str(version)

    def _list_stand_ins(self) -> list[str]:
        """Return the versions of the stand-ins on this machine, oldest first."""
        tags = [tag for image in self._client.api.images(STAND_IN) for tag in image.get("RepoTags") or ()]
        names = {tag.rpartition(":")[2] for tag in tags}
        return sorted((name for name in names if name.replace(".", "").isdigit()), key=_numbers)

    def _not_found(self, version: str) -> NotFound:
        versions = self._list_stand_ins()
        held = f"this machine holds {', '.join(versions)}" if versions else "this machine holds no base image"
        return NotFound(
            f"no base image for CPython {version}: no registry provides {self._format_name(version)}, and {held}; "
            "`make base-images` makes base images from Debian's releases"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
