"""The images of servers, built from the sources where they are absent."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.errors

from venvd_contract.errors import Internal, InvalidRequest, Unavailable
from venvd_contract.resources import BACKEND_TYPES
from venvd_engines.docker import patience
from venvd_engines.docker.bases import Bases
from venvd_engines.docker.site import Site
from venvd_engines.docker.volumes import tar
from venvd_engines.engine import Progress

BUILD_REQUIREMENTS = "requirements/build.txt"
CA_BUNDLE, INDEX_URL = ".build/ca.crt", ".build/index.url"
"""Where the first stage of the Dockerfiles looks for what a site has of its own; no other stage sees them."""

_LEFT_OUT = re.compile(r"(^|/)(__pycache__|tests|\.[^/]+|[^/]+\.egg-info)(/|$)|\.pyc$")
_WORKSPACE = re.compile(r"venvd-([a-z-]+)")


Context = dict[str, bytes]
"""The files that an image is made of, by their name in the build's context."""


class Servers:
    """Finds and builds `venvd/<type>-backend:<hash of its sources>`.

    The images hold nothing of a home, and homes share them; each holds those that it uses by a tag of its own, with its
    identity before the hash. A process keeps to the one that it found first: sources that change under it are for the
    next.
    """

    def __init__(self, site: Site, bases: Bases) -> None:
        self._site = site
        self._bases = bases
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}

    def ensure(self, backend_type: str, progress: Progress) -> str:
        """The name of the image of this type's server, built if absent."""
        if backend_type not in BACKEND_TYPES:
            raise InvalidRequest(f'"{backend_type}" is no type of backend: {", ".join(BACKEND_TYPES)}')
        while not self._lock.acquire(timeout=patience.TICK):
            progress.check()
        try:
            name = self._names.get(backend_type)
            if name is None or self._image(name) is None:
                name = self._names[backend_type] = self._made(backend_type, progress)
            return name
        finally:
            self._lock.release()

    def _made(self, backend_type: str, progress: Progress) -> str:
        context = _context(self._source(), backend_type)
        digest = _digest(context, self._site.settings.base_image)
        if not self._hold(backend_type, digest):
            progress.phase(f"{backend_type} server image")
            name = f"{_repository(backend_type)}:{digest}"
            self._build(name, backend_type, context, progress)
            if not self._hold(backend_type, digest):
                raise Internal(f"the build of {name} ended without an image")
        return self._own(backend_type, digest)

    def _own(self, backend_type: str, digest: str) -> str:
        return f"{_repository(backend_type)}:{self._site.settings.home_id}-{digest}"

    def _hold(self, backend_type: str, digest: str) -> bool:
        """Give an image this home's tag too, so that no other home's tidying takes it away; whether there is one."""
        own = self._own(backend_type, digest)
        if self._image(own) is not None:
            return True
        try:
            self._site.api.tag(f"{_repository(backend_type)}:{digest}", *own.split(":"))
        except docker.errors.NotFound:
            return False
        return True

    # ---- what this home holds --------------------------------------------------------------------------------

    def held(self) -> Iterator[tuple[str, Any]]:
        """The images that this home holds, each with its tag."""
        for backend_type in BACKEND_TYPES:
            for image in self._site.api.images(_repository(backend_type)):
                for tag in image.get("RepoTags") or ():
                    if tag.startswith(self._own(backend_type, "")):
                        yield tag, image

    def current(self) -> set[str]:
        """The tags that a start would look for now."""
        with self._lock:
            found = set(self._names.values())
        with contextlib.suppress(Unavailable):  # without sources there are none but those that were found before
            for backend_type in BACKEND_TYPES:
                digest = _digest(_context(self._source(), backend_type), self._site.settings.base_image)
                found.add(self._own(backend_type, digest))
        return found

    def release(self, tag: str) -> None:
        """Let go of an image; the last home that does removes it."""
        repository, _, version = tag.partition(":")
        shared = f"{repository}:{version.removeprefix(f'{self._site.settings.home_id}-')}"
        with contextlib.suppress(docker.errors.ImageNotFound):
            self._site.api.remove_image(tag)
        image = self._image(shared)
        if image is not None and image["RepoTags"] == [shared]:
            with contextlib.suppress(docker.errors.APIError):  # a container uses it, or it is gone
                self._site.api.remove_image(shared)

    # ---- building --------------------------------------------------------------------------------------------

    def _source(self) -> Path:
        source = self._site.settings.source_dir
        if source is None or not (source / "services").is_dir():
            raise Unavailable(
                "the sources of the servers, of which their images are made, are not there: set VENVD_SOURCE_DIR"
            )
        return source

    def _secrets(self) -> dict[str, bytes]:
        found = {}
        if self._site.settings.ca_bundle:
            found[CA_BUNDLE] = self._site.settings.ca_bundle.read_bytes()
        if self._site.settings.index_url:
            found[INDEX_URL] = self._site.settings.index_url.encode()
        return found

    def _image(self, name: str) -> Any:
        """What the engine tells of an image, or None."""
        try:
            return self._site.api.inspect_image(name)
        except docker.errors.ImageNotFound:
            return None

    def _build(self, name: str, backend_type: str, context: Context, progress: Progress) -> None:
        base = self._bases.for_servers(progress)
        progress.log(f"building {name} on {base}")
        stream = self._site.api.build(
            fileobj=io.BytesIO(tar({**context, **self._secrets()})),
            custom_context=True,
            dockerfile=f"services/{backend_type}-backend/Dockerfile",
            buildargs={"BASE_IMAGE": base},
            tag=name,
            rm=True,
            forcerm=True,
            decode=True,
            container_limits={
                "memory": self._site.settings.build_memory_bytes,
                "memswap": self._site.settings.build_memory_bytes,
            },
        )
        seconds = self._site.settings.build_timeout
        for event in patience.items(stream, progress, seconds=seconds, doing="build the server's image"):
            _follow(event, progress)


def _repository(backend_type: str) -> str:
    return f"venvd/{backend_type}-backend"


def _follow(event: dict[str, Any], progress: Progress) -> None:
    if "error" in event:
        raise Unavailable(f"the server's image could not be built: {event['error'].strip()}")
    for line in event.get("stream", "").splitlines():
        if line.strip():
            progress.log(line.rstrip())


# ---- the context -----------------------------------------------------------------------------------------------


def _context(source: Path, backend_type: str) -> Context:
    """Only what this server needs."""
    service = source / "services" / f"{backend_type}-backend"
    folders = [service, *(source / "packages" / name for name in sorted(_packages(source, service)))]
    paths = [source / BUILD_REQUIREMENTS, *(path for folder in folders for path in _files(folder))]
    try:
        return {str(path.relative_to(source)): path.read_bytes() for path in paths}
    except OSError as error:
        raise Unavailable(f"the sources of the servers are not whole: {error}") from None


def _packages(source: Path, folder: Path) -> set[str]:
    """The packages of the workspace that a project stands on, directly or not."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    except OSError as error:
        raise Unavailable(f"the sources of the servers are not whole: {error}") from None
    found: set[str] = set()
    for dependency in project.get("dependencies", ()):
        if (match := _WORKSPACE.match(dependency)) and (source / "packages" / match[1]).is_dir():
            found |= {match[1], *_packages(source, source / "packages" / match[1])}
    return found


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not _LEFT_OUT.search(str(path.relative_to(folder))):
            yield path


def _digest(context: Context, base_image: str | None) -> str:
    digest = hashlib.sha256(repr(base_image).encode())
    for name, content in sorted(context.items()):
        digest.update(f"\0{name}\0".encode())
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]
