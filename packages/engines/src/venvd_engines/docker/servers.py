"""The images of servers, built from the sources where they are absent."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.errors

from venvd_contract.errors import InvalidRequest, Unavailable
from venvd_contract.resources import BACKEND_TYPES
from venvd_engines import locking
from venvd_engines.build_locks import BuildLocks
from venvd_engines.docker import labels
from venvd_engines.docker.bases import Bases
from venvd_engines.docker.build_container import SCRATCH, BuildContainers, must
from venvd_engines.docker.site import Site
from venvd_engines.engine import Progress

PREFIX = "/opt/venv"
LAYOUT = 1
"""Raised when the same sources would be laid out otherwise in an image."""

BUILD_REQUIREMENTS = "requirements/build.txt"
_SOURCES = f"{SCRATCH}/sources"
_BUILD_ENV = f"{SCRATCH}/build"
_LOCKS = Path("/tmp")  # noqa: S108 - homes, and users, share server images: the one place that all of them can write
_HEALTH = """
import http.client, socket, sys
kind, _, place = sys.argv[1].partition(":")
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_INET if kind == "port" else socket.AF_UNIX)
connection.sock.settimeout(4)
connection.sock.connect(("127.0.0.1", int(place)) if kind == "port" else place)
connection.request("GET", "/livez")
sys.exit(connection.getresponse().status != 200)
"""
_PROBED = {"http": "port:5678", "rpc": "port:8080", "pipe": "path:/run/venvd/socket/http.sock"}
"""Where the server of each type answers `/livez` in its container."""

_LEFT_OUT = re.compile(r"(^|/)(__pycache__|tests|\.[^/]+|[^/]+\.egg-info)(/|$)|\.pyc$")
_WORKSPACE = re.compile(r"venvd-([a-z-]+)")
_CLIENT = ("contract", "proto", "client")
"""The packages of the distribution `venvd`, on which every server stands."""


Context = dict[str, bytes]
"""The files that an image is made of, by their name in the build's context."""


class Servers:
    """Finds and builds `venvd/<type>-backend:<hash of its sources>`.

    The images hold nothing of a home, and homes share them; each holds those that it uses by a tag of its own, with its
    identity before the hash. A process keeps to the one that it found first: sources that change under it are for the
    next.
    """

    def __init__(self, site: Site, bases: Bases, containers: BuildContainers) -> None:
        self._site = site
        self._bases = bases
        self._containers = containers
        self._locks = BuildLocks(_LOCKS)
        self._names: dict[str, str] = {}

    def ensure(self, backend_type: str, progress: Progress) -> str:
        """The name of the image of this type's server, built if absent."""
        if backend_type not in BACKEND_TYPES:
            raise InvalidRequest(f'"{backend_type}" is no type of backend: {", ".join(BACKEND_TYPES)}')
        name = self._names.get(backend_type)
        if name is None or self._image(name) is None:
            name = self._names[backend_type] = self._make(backend_type, progress)
        return name

    def _make(self, backend_type: str, progress: Progress) -> str:
        """Find the image of the sources, or build it; the name by which this home holds it."""
        context = _context(self._source(), backend_type)
        digest = _digest(context, self._site.settings.base_image)
        if not self._hold(backend_type, digest):
            with self._locks.hold(f"venvd-{backend_type}-backend-{digest}", progress):
                if not self._hold(backend_type, digest):
                    progress.phase(f"{backend_type} server image")
                    self._build(f"{_repository(backend_type)}:{digest}", backend_type, context, progress)
                    self._hold(backend_type, digest)
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

    def _image(self, name: str) -> Any:
        """What the engine tells of an image, or None."""
        try:
            return self._site.api.inspect_image(name)
        except docker.errors.ImageNotFound:
            return None

    def _build(self, name: str, backend_type: str, context: Context, progress: Progress) -> None:
        base = self._bases.for_servers(progress)
        progress.log(f"building {name} on {base}")
        with self._containers.open(base, progress, key=name.rpartition(":")[2]) as container:
            container.write(f"{_SOURCES}.zip", _zip(context))
            must(container.run(["python3", "-I", "-m", "zipfile", "-e", f"{_SOURCES}.zip", _SOURCES]), "unpack sources")
            container.make_venv(PREFIX)
            container.make_venv(_BUILD_ENV)
            python = f"{_BUILD_ENV}/bin/python"
            requirements = f"{_SOURCES}/services/{backend_type}-backend/requirements.txt"
            container.uv(locking.install_arguments(f"{_SOURCES}/{BUILD_REQUIREMENTS}", python=python))
            container.uv(locking.install_arguments(requirements, python=python, prefix=PREFIX))
            projects = [f"{_SOURCES}/{path}" for path in _projects(context)]
            container.uv(locking.install_projects_arguments(projects, python=python, prefix=PREFIX))
            container.finish(PREFIX)
            container.commit(_configuration(backend_type), name)


def _configuration(backend_type: str) -> dict[str, Any]:
    """The image's configuration; the labels of the build container would make it one home's."""
    python = [f"{PREFIX}/bin/python", "-I"]
    second = 10**9
    return {
        "Entrypoint": [*python, "-u", "-B", "-m", f"venvd_{backend_type}_backend"],
        "Healthcheck": {
            "Test": ["CMD", *python, "-S", "-c", _HEALTH, _PROBED[backend_type]],
            "Interval": 30 * second,
            "Timeout": 5 * second,
            "StartPeriod": 30 * second,
        },
        "User": f"{labels.SERVER_UID}:{labels.SHARED_GID}",
        "WorkingDir": "/",
        "Labels": {labels.HOME: "", labels.INSTANCE: "", labels.ROLE: "server-image"},
    }


def _repository(backend_type: str) -> str:
    return f"venvd/{backend_type}-backend"


# ---- the context -----------------------------------------------------------------------------------------------


def _context(source: Path, backend_type: str) -> Context:
    """Only what this server needs."""
    service = source / "services" / f"{backend_type}-backend"
    packages = {*_CLIENT, *_packages(source, service)}
    folders = [service, *(source / "packages" / name for name in sorted(packages))]
    paths = [source / name for name in ("pyproject.toml", BUILD_REQUIREMENTS)]
    paths += [path for folder in folders for path in _files(folder)]
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


def _projects(context: Context) -> list[str]:
    """The directories of the context that are installed."""
    return sorted(str(Path(path).parent) for path in context if Path(path).name == "pyproject.toml")


def _zip(context: Context) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in context.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _digest(context: Context, base_image: str | None) -> str:
    digest = hashlib.sha256(repr((LAYOUT, base_image)).encode())
    for name, content in sorted(context.items()):
        digest.update(f"\0{name}\0".encode())
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]
