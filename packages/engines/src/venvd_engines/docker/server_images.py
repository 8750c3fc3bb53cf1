"""The images of servers, built from the sources of this installation."""

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

from venvd_contract.errors import Internal, InvalidRequest, Unavailable
from venvd_engines import locking
from venvd_engines.build_locks import BuildLocks
from venvd_engines.docker import labels
from venvd_engines.docker.base_images import BaseImages
from venvd_engines.docker.build_container import SCRATCH, BuildContainers, must
from venvd_engines.docker.client import DockerClient
from venvd_engines.engine import ROUTER, SERVERS, Progress

PREFIX = "/opt/venv"
LAYOUT = 2
"""Increased when equal sources give another image than before."""

BUILD_REQUIREMENTS = "requirements/build.txt"
_SOURCES = f"{SCRATCH}/sources"
_BUILD_ENV = f"{SCRATCH}/build"
_LOCKS = Path("/tmp")  # noqa: S108 - homes of several users share server images, and all users can write here
_HEALTH = """
import http.client, os, socket, sys
kind, _, place = sys.argv[1].partition(":")
if kind == "router":
    http_port = os.environ.get("VENVD_HTTP_PORT")
    kind, place = ("port", http_port) if http_port else ("tls", os.environ["VENVD_PORT"])
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX if kind == "path" else socket.AF_INET)
connection.sock.settimeout(4)
connection.sock.connect(place if kind == "path" else ("127.0.0.1", int(place)))
if kind == "tls" and os.environ.get("VENVD_TLS_CERT"):
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection.sock = context.wrap_socket(connection.sock)
connection.request("GET", "/livez")
sys.exit(connection.getresponse().status != 200)
"""
_PROBED = {"http": "tls:5678", "rpc": "port:8080", "pipe": "path:/run/venvd/socket/http.sock", ROUTER: "router"}
"""Where each kind of server answers `/livez` in its container; `tls` uses TLS if the server has a certificate."""

_EXCLUDED = re.compile(r"(^|/)(__pycache__|tests|\.[^/]+|[^/]+\.egg-info)(/|$)|\.pyc$")
_WORKSPACE = re.compile(r"venvd-([a-z-]+)")
_CLIENT = ("contract", "proto", "client")
"""The packages of the distribution `venvd`, which every server needs."""


Context = dict[str, bytes]
"""The files that an image is built from, by their path below the sources."""


class ServerImages:
    """Finds and builds `venvd/<type>-backend:<hash of its sources>`.

    Homes share the images. Each home adds its own tag to those that it uses, with its identity before the hash. A
    process keeps the image that it found first. If sources change meanwhile, only the next process builds from them.
    """

    def __init__(self, client: DockerClient, bases: BaseImages, containers: BuildContainers) -> None:
        self._client = client
        self._bases = bases
        self._containers = containers
        self._locks = BuildLocks(_LOCKS)
        self._names: dict[str, str] = {}
        self._digests: dict[str, str] = {}

    def ensure(self, backend_type: str, progress: Progress) -> str:
        """Return the name of the image of this type's server; build the image if it is absent."""
        if backend_type not in SERVERS:
            raise InvalidRequest(f'"{backend_type}" is not a kind of server: {", ".join(SERVERS)}')
        name = self._names.get(backend_type)
        if name is None or self._client.inspect_image(name) is None:
            name = self._names[backend_type] = self._make(backend_type, progress)
        return name

    def identify(self, backend_type: str) -> str | None:
        """Return the digest of the sources of this type's image; None if they are missing."""
        if backend_type not in self._digests:
            try:
                context = _read_context(self._source_dir(), backend_type)
            except Unavailable:
                return None
            self._digests[backend_type] = _digest(context, self._client.settings.base_image)
        return self._digests[backend_type]

    def _make(self, backend_type: str, progress: Progress) -> str:
        """Find the image of the sources, or build it. Return this home's tag of it."""
        context = _read_context(self._source_dir(), backend_type)
        digest = self._digests[backend_type] = _digest(context, self._client.settings.base_image)
        if not self._hold(backend_type, digest):
            with self._locks.hold(f"venvd-{name_service(backend_type)}-{digest}", progress):
                if not self._hold(backend_type, digest):
                    progress.phase(f"{backend_type} server image")
                    self._build(f"{_repository(backend_type)}:{digest}", backend_type, context, progress)
                    if not self._hold(backend_type, digest):
                        raise Internal("another home removed the server's image as soon as it was built: try again")
        return self._home_tag(backend_type, digest)

    def _home_tag(self, backend_type: str, digest: str) -> str:
        return f"{_repository(backend_type)}:{self._client.settings.home_id}-{digest}"

    def _hold(self, backend_type: str, digest: str) -> bool:
        """Add this home's tag to an image, so that no other home removes it. Return False if there is no such image."""
        own = self._home_tag(backend_type, digest)
        if self._client.inspect_image(own) is not None:
            return True
        try:
            self._client.api.tag(f"{_repository(backend_type)}:{digest}", *own.split(":"))
        except docker.errors.NotFound:
            return False
        return True

    # ---- the images of this home -----------------------------------------------------------------------------

    def list_held(self) -> Iterator[tuple[str, Any]]:
        """Yield the images with a tag of this home, each after its tag."""
        for backend_type in SERVERS:
            for image in self._client.api.images(_repository(backend_type)):
                for tag in image.get("RepoTags") or ():
                    if tag.startswith(self._home_tag(backend_type, "")):
                        yield tag, image

    def list_current(self) -> set[str]:
        """Return the tags that a start would look for now."""
        tags = set(self._names.values())
        with contextlib.suppress(Unavailable):  # there may be no sources
            for backend_type in SERVERS:
                digest = _digest(_read_context(self._source_dir(), backend_type), self._client.settings.base_image)
                tags.add(self._home_tag(backend_type, digest))
        return tags

    def release(self, tag: str) -> None:
        """Remove this home's tag. If it was the last home's tag, remove the image too."""
        repository, _, version = tag.partition(":")
        shared = f"{repository}:{version.removeprefix(f'{self._client.settings.home_id}-')}"
        with contextlib.suppress(docker.errors.ImageNotFound):
            self._client.api.remove_image(tag)
        image = self._client.inspect_image(shared)
        if image is not None and image["RepoTags"] == [shared]:
            with contextlib.suppress(docker.errors.APIError):  # a container uses it, or another home removed it
                self._client.api.remove_image(shared)

    # ---- building --------------------------------------------------------------------------------------------

    def _source_dir(self) -> Path:
        source = self._client.settings.source_dir
        if source is None or not (source / "services").is_dir():
            raise Unavailable(
                "the sources of the servers, which their images are built from, are missing: set VENVD_SOURCE_DIR"
            )
        return source

    def _build(self, name: str, backend_type: str, context: Context, progress: Progress) -> None:
        base = self._bases.find_for_servers(progress)
        progress.log(f"building {name} on {base}")
        with self._containers.open(base, progress, key=name.rpartition(":")[2]) as container:
            container.write(f"{_SOURCES}.zip", _zip(context))
            must(container.run(["python3", "-I", "-m", "zipfile", "-e", f"{_SOURCES}.zip", _SOURCES]), "unpack sources")
            container.make_venv(PREFIX)
            container.make_venv(_BUILD_ENV)
            python = f"{_BUILD_ENV}/bin/python"
            requirements = f"{_SOURCES}/services/{name_service(backend_type)}/requirements.txt"
            container.uv(locking.install_arguments(f"{_SOURCES}/{BUILD_REQUIREMENTS}", python=python))
            container.uv(locking.install_arguments(requirements, python=python, prefix=PREFIX))
            projects = [f"{_SOURCES}/{path}" for path in _list_projects(context)]
            container.uv(locking.install_projects_arguments(projects, python=python, prefix=PREFIX))
            container.post_install(PREFIX)
            container.commit(_make_config(backend_type), name)


def _make_config(backend_type: str) -> dict[str, Any]:
    """Return the image's configuration. It clears the labels that would give the image to one home."""
    python = [f"{PREFIX}/bin/python", "-I"]
    second = 10**9
    return {
        "Entrypoint": [*python, "-u", "-B", "-m", f"venvd_{name_service(backend_type).replace('-', '_')}"],
        "Healthcheck": {
            "Test": ["CMD", *python, "-S", "-c", _HEALTH, _PROBED[backend_type]],
            "Interval": 30 * second,
            "Timeout": 5 * second,
        },
        "User": f"{labels.SERVER_UID}:{labels.SHARED_GID}",
        "WorkingDir": "/",
        "Labels": {labels.HOME: "", labels.INSTANCE: "", labels.ROLE: labels.SERVER_IMAGE},
    }


def name_service(backend_type: str) -> str:
    """Name the folder of a server in `services/`, and its image."""
    return ROUTER if backend_type == ROUTER else f"{backend_type}-backend"


def _repository(backend_type: str) -> str:
    return f"venvd/{name_service(backend_type)}"


# ---- the context -----------------------------------------------------------------------------------------------


def _read_context(source: Path, backend_type: str) -> Context:
    """Return exactly the files that the image of this server is built from."""
    service = source / "services" / name_service(backend_type)
    packages = {*_CLIENT, *_find_packages(source, service)}
    folders = [service, *(source / "packages" / name for name in sorted(packages))]
    paths = [source / name for name in ("pyproject.toml", BUILD_REQUIREMENTS)]
    paths += [path for folder in folders for path in _list_files(folder)]
    try:
        return {str(path.relative_to(source)): path.read_bytes() for path in paths}
    except OSError as error:
        raise Unavailable(f"the sources of the servers are incomplete: {error}") from None


def _find_packages(source: Path, folder: Path) -> set[str]:
    """Find the packages of the workspace that a project depends on, directly or not."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    except OSError as error:
        raise Unavailable(f"the sources of the servers are incomplete: {error}") from None
    packages: set[str] = set()
    for dependency in project.get("dependencies", ()):
        if (match := _WORKSPACE.match(dependency)) and (source / "packages" / match[1]).is_dir():
            packages |= {match[1], *_find_packages(source, source / "packages" / match[1])}
    return packages


def _list_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not _EXCLUDED.search(str(path.relative_to(folder))):
            yield path


def _list_projects(context: Context) -> list[str]:
    """List the directories of the context that a build installs."""
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
