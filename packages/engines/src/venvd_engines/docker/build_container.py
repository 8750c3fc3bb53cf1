"""Build containers: commands make the content of an image in one, and the engine commits it as the image.

Mounts lie below the container's tmpfs on /tmp, so no mount leaves a directory in the committed image. For the same
reason a command writes the files. The engine's archive call would create the mounts' directories in the layer, and
would write files for /tmp to the image instead of the tmpfs. The environment carries a file's content, because some
proxies in front of the engine do not forward a command's input (HAProxy 2.6).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.metadata
import json
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker.errors
import requests.utils
import uv
from docker.types import Mount

from venvd_contract.errors import Internal, InvalidRequest, Unavailable, VenvdError
from venvd_contract.resources import Package
from venvd_egress import index
from venvd_egress.programs import CONFIG
from venvd_engines import egress, locking
from venvd_engines.docker import cancellable, labels
from venvd_engines.docker.client import DockerClient
from venvd_engines.docker.post_install import SHARED_FILES
from venvd_engines.docker.volumes import FilledVolumes
from venvd_engines.engine import Progress
from venvd_worker import archive

SCRATCH = "/tmp/venvd"  # noqa: S108 - in a container of our own
_TOOLS = f"{SCRATCH}/tools"
_CACHE = f"{SCRATCH}/cache"
_EGRESS = f"{SCRATCH}/egress"
_SOCKET = "broker.sock"
_BROKER = f"{_TOOLS}/egress.pyz"
_FORWARDER = f"{_TOOLS}/worker.pyz"
CA_BUNDLE = f"{_TOOLS}/ca.crt"
PROXY = f"http://127.0.0.1:{index.PORT}"
"""The only way out of a build container."""

SCRATCH_BYTES = 1 << 30
_BROKER_BYTES = 256 << 20
_PORTS = {"http": 80, "https": 443}
MAX_KEPT_LINES = 100_000
"""How many lines of a command's output are kept beside the log."""

APT_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID")
"""Capabilities of root that dpkg and apt need."""

CHUNK_BYTES = 90_000
"""Bytes of a file that one environment variable carries, before base64. The kernel's limit is 128 KiB."""

_APPEND = "import base64, os, sys; open(sys.argv[1], sys.argv[2]).write(base64.b64decode(os.environ['CHUNK']))"


class SharedFilesError(Exception):
    """Packages have a file in common, so the file's content depends on the order of their installation."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


class BuildContainer:
    """One build container; made by `BuildContainers.open`."""

    def __init__(self, client: DockerClient, container: str, progress: Progress) -> None:
        self._client = client
        self._container = container
        self._progress = progress
        self._seconds = client.settings.build_timeout

    def run(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        log: Callable[[str], None] | None = None,
        quiet: bool = False,
    ) -> Outcome:
        """Run a command to its end.

        Args:
            command: the program and its arguments.
            env: variables for this command alone; they reach no configuration and no image.
            log: receives the lines as they come; the work's log by default.
            quiet: do not log standard output: the caller reads it as an answer.
        """
        api = self._client.api
        made = api.exec_create(self._container, list(command), environment=dict(env or {}))["Id"]
        chunks = api.exec_start(made, stream=True, demux=True)
        kept = (deque[str](maxlen=MAX_KEPT_LINES), deque[str](maxlen=MAX_KEPT_LINES))
        splitters = (cancellable.LineSplitter(), cancellable.LineSplitter())
        log = log or self._progress.log

        def take(which: int, lines: list[str]) -> None:
            kept[which].extend(lines)
            for line in lines:
                if line.strip() and not (quiet and which == 0):
                    log(line)

        for pair in cancellable.iterate(chunks, self._progress, seconds=self._seconds, doing=f"run {command[0]}"):
            for which, chunk in enumerate(pair):
                take(which, splitters[which].feed(chunk or b""))
        for which in (0, 1):
            take(which, splitters[which].end())
        status = api.exec_inspect(made)["ExitCode"]
        if status is None:
            raise Internal("the build container ended before its command did")
        return Outcome(int(status), "\n".join(kept[0]), "\n".join(kept[1]))

    def write(self, path: str, content: bytes) -> None:
        """Make a file in the container's tmpfs."""
        for start in range(0, max(1, len(content)), CHUNK_BYTES):
            command = ["python3", "-I", "-S", "-c", _APPEND, path, "ab" if start else "wb"]
            chunk = base64.b64encode(content[start : start + CHUNK_BYTES]).decode()
            must(self.run(command, {"CHUNK": chunk}), "put a file into the build container")

    def list_mirrors(self) -> list[str]:
        """List the hosts, with ports, from which the base image takes Debian packages."""
        command = ["apt-get", "indextargets", "--format", "$(SITE)"]
        sites = must(self.run(command, quiet=True), "list the sources of Debian packages").split()
        parts = {urlsplit(site) for site in sites}
        return sorted(f"{part.hostname}:{part.port or _PORTS[part.scheme]}" for part in parts if part.scheme in _PORTS)

    def find_python(self) -> str:
        """Return the path of the base image's interpreter."""
        command = ["python3", "-I", "-S", "-c", "import sys; print(sys.executable)"]
        return must(self.run(command, quiet=True), "find the base image's python3").strip()

    def make_venv(self, prefix: str) -> None:
        """Make a virtual environment without pip."""
        outcome = self.run(["python3", "-I", "-m", "venv", "--without-pip", prefix])
        must(outcome, "make the environment (the base image needs Python's venv module)")

    def uv(self, arguments: Sequence[str]) -> None:
        """Run uv with the broker as its package index. The log shows uv's output without addresses.

        Raises:
            InvalidRequest: the requirements are wrong.
            Unavailable: the package index does not answer.
        """
        settings = self._client.settings
        env = {
            "HOME": SCRATCH,
            "UV_CACHE_DIR": _CACHE,
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), PROXY),
            "NO_PROXY": "127.0.0.1",
            **locking.index_environment(
                index.make_local_url(settings.index_url) if settings.index_url else None,
                CA_BUNDLE if settings.ca_bundle else None,
            ),
        }
        outcome = self.run(
            [f"{_TOOLS}/uv", *arguments],
            env,
            quiet=True,
            log=lambda line: self._progress.log(locking.without_addresses(line)),
        )
        if outcome.status != 0:
            raise locking.failure(outcome.stderr)

    def post_install(self, prefix: str, added: Sequence[str] = ()) -> list[Package]:
        """Compile the packages in `prefix`, point their scripts at its interpreter, and return the packages.

        Args:
            prefix: the environment.
            added: the only packages to compile, if the others came with the parent; empty for all.

        Raises:
            SharedFilesError: one of `added` has a file that another package has too.
        """
        source = files("venvd_engines.docker").joinpath("post_install.py").read_text()
        workers = max(1, round(self._client.settings.build_cpus))
        command = ["python3", "-I", "-S", "-B", "-c", source, prefix, str(workers), *added]
        outcome = self.run(command, quiet=True)
        if outcome.status == SHARED_FILES:
            raise SharedFilesError(outcome.stderr.strip())
        lines = must(outcome, "finish the environment").splitlines()
        if not lines:
            raise Unavailable("the engine lost the output of a command in the build container: try again")
        return [Package(name, version) for name, version in json.loads(lines[-1])]

    def commit(self, config: Mapping[str, Any], name: str | None = None) -> str:
        """Commit the content of the container as an image, and return its ID.

        Args:
            config: the image's configuration; its fields replace those of the container.
            name: repository and tag; without it the image gets no tag.
        """
        repository, _, tag = (name or "").partition(":")

        def commit() -> str:
            made = self._client.slow_api.commit(
                self._container, repository or None, tag or None, pause=False, conf=dict(config)
            )
            return str(made["Id"])

        def remove(image: str) -> None:
            with contextlib.suppress(docker.errors.DockerException):
                self._client.api.remove_image(image)

        return cancellable.call(commit, self._progress, seconds=self._seconds, doing="commit the image", discard=remove)


class BuildContainers:
    """Opens build containers, with uv and the site's certificates in them.

    A build container has no network. A broker in another container reaches the package index and the internet for it,
    but no internal address. The broker runs no code of packages, and it alone has the credentials of the index.
    """

    def __init__(self, client: DockerClient, volumes: FilledVolumes) -> None:
        self._client = client
        self._volumes = volumes

    @contextlib.contextmanager
    def open(
        self,
        base: str,
        progress: Progress,
        *,
        parent: str | None = None,
        root_work: bool = False,
        user_code: bool = False,
        key: str = "",
    ) -> Iterator[BuildContainer]:
        """Yield a build container of the image `base`, and remove it at the end whatever happens.

        Args:
            base: the image of the runtime.
            parent: an image to build on that was built on `base`. The container still runs the programs of `base`, and
                the broker beside it sees nothing of the parent.
            progress: receives the output.
            root_work: give the container the capabilities of root that the installation of Debian packages needs.
            user_code: packages may run their code, so the container gets no cache that others use.
            key: the content address of the build's result, as a label for people.
        """
        settings = self._client.settings
        tools = Mount(_TOOLS, self._fill_tools(base), type="volume", read_only=True)
        with self._make_way_out() as way_out:
            mounts = [tools, Mount(_CACHE, None if user_code else self._make_cache(), type="volume")]
            with self._start(
                parent or base,
                [*mounts, Mount(_EGRESS, way_out, type="volume", read_only=True, no_copy=True)],
                command=["python3", "-I", "-S", _FORWARDER, "forwarder", str(index.PORT), f"{_EGRESS}/{_SOCKET}"],
                labels=self._client.labels(labels.BUILD, **({"key": key} if key else {})),
                memory_bytes=settings.build_memory_bytes,
                cpus=settings.build_cpus,
                processes=512,
                network="none",
                read_only=False,
                capabilities=APT_CAPABILITIES if root_work else (),
                user="0:0",
                environment={"PATH": self._client.find_path(base)} if parent else {},
            ) as container:
                build = BuildContainer(self._client, container, progress)
                with self._start_broker(
                    base, [tools, Mount(_EGRESS, way_out, type="volume", no_copy=True)], progress
                ) as broker:
                    self._open_broker(broker, build.list_mirrors() if root_work else [])
                    yield build

    @contextlib.contextmanager
    def _start(self, base: str, mounts: Sequence[Mount], **config: Any) -> Iterator[str]:
        with self._client.temporary_container(
            base,
            mounts=mounts,
            tmpfs={"/tmp": f"size={SCRATCH_BYTES},mode=1777,exec,nosuid,nodev"},  # noqa: S108
            name=f"venvd-build-{secrets.token_hex(6)}",
            working_dir="/",
            **config,
        ) as container:
            self._client.api.start(container)
            yield container

    @contextlib.contextmanager
    def _start_broker(self, base: str, mounts: Sequence[Mount], progress: Progress) -> Iterator[BuildContainer]:
        with self._start(
            base,
            mounts,
            command=["python3", "-I", "-S", "-c", "import time\nwhile True: time.sleep(3600)"],
            labels=self._client.labels(labels.BUILD),
            memory_bytes=_BROKER_BYTES,
            cpus=self._client.settings.build_cpus,
            processes=512,
            network="bridge",
            user=f"{labels.SERVER_UID}:{labels.SHARED_GID}",
        ) as container:
            yield BuildContainer(self._client, container, progress)

    def _open_broker(self, broker: BuildContainer, hosts: Sequence[str]) -> None:
        """Run the broker. Its configuration may contain a password, so only this command has it in its environment."""
        config = json.dumps({"index": self._client.settings.index_url, "ca": CA_BUNDLE, "hosts": hosts})
        command = ["python3", "-I", "-S", _BROKER, "build", f"{_EGRESS}/{_SOCKET}"]
        must(broker.run(command, {CONFIG: config}), "start the broker of the build")

    @contextlib.contextmanager
    def _make_way_out(self) -> Iterator[str]:
        """Make the volume of the broker's socket, and yield its name."""
        options = f"uid={labels.SERVER_UID},gid={labels.SHARED_GID},mode=0755,size=1m,nosuid,nodev,noexec"
        volume = self._client.api.create_volume(
            driver_opts={"type": "tmpfs", "device": "tmpfs", "o": options}, labels=self._client.labels(labels.HELPER)
        )
        try:
            yield str(volume["Name"])
        finally:
            with contextlib.suppress(docker.errors.APIError):
                self._client.api.remove_volume(volume["Name"])

    def _make_cache(self) -> str:
        """Make the cache of builds that run no code of packages. Each index has one: uv sees one address for all."""
        index = self._client.settings.index_url
        name = f"venvd-{self._client.settings.home_id}-uv-cache"
        if index:
            name += f"-{hashlib.sha256(index.encode()).hexdigest()[:8]}"
        self._client.api.create_volume(name, labels=self._client.labels(labels.CACHE))
        return name

    def _fill_tools(self, image: str) -> str:
        """Return the name of the volume with uv, the programs of the way out, and the certificates."""
        bundle = _read(self._client.settings.ca_bundle or Path(requests.utils.DEFAULT_CA_BUNDLE_PATH))
        broker = egress.make_program()
        forwarder = archive.build(self._client.settings.home / "worker").read_bytes()
        digest = hashlib.sha256(bundle + broker + archive.version().encode()).hexdigest()[:8]
        version = f"{importlib.metadata.version('uv')}-{digest}"

        def read_tools() -> dict[str, bytes]:
            own = {"egress.pyz": broker, "worker.pyz": forwarder}
            return {"uv": Path(uv.find_uv_bin()).read_bytes(), "ca.crt": bundle, **own}

        return self._volumes.ensure(labels.TOOLS, version, read_tools, image, mode=0o555)


def must(outcome: Outcome, doing: str, kind: type[VenvdError] = Internal) -> str:
    """Return the standard output of a command, or raise an error if the command failed."""
    if outcome.status != 0:
        output = outcome.stderr.strip() or outcome.stdout.strip() or "it wrote nothing"
        raise kind(f"could not {doing}: {output[-2000:]}")
    return outcome.stdout


def _read(ca_bundle: Path) -> bytes:
    try:
        return ca_bundle.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"VENVD_CA_BUNDLE cannot be read: {error}") from None
