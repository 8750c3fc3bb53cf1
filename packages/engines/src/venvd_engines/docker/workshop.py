"""The build container: idle, with nothing of its own, and work done in it by `exec`.

What is mounted lies below its tmpfs on /tmp, so that no mount leaves a trace in the image that is committed from it.
For the same reason files come in with a process: the engine's archive call would make the mounts' directories in the
layer, and what it writes below /tmp would be in the image and not in the tmpfs. They come in its environment and not
by its input, which some proxies in front of the engine do not pass on (HAProxy 2.6).
"""

from __future__ import annotations

import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import docker.errors
from docker.types import Mount

from venvd_contract.errors import Internal, VenvdError
from venvd_engines.docker import hardening, labels, patience
from venvd_engines.docker.site import Site
from venvd_engines.engine import Progress

PLACE = "/tmp/venvd"  # noqa: S108 - in a container of our own
TOOLS = f"{PLACE}/tools"
CACHE = f"{PLACE}/cache"
UV = f"{TOOLS}/uv"
CA_BUNDLE = f"{TOOLS}/ca.crt"

SCRATCH_BYTES = 1 << 30
MAX_KEPT = 100_000
"""Lines of a command's output that are kept beside the log."""

APT_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID")
"""What dpkg and apt need of root."""

CHUNK_BYTES = 120_000
"""What one environment variable carries; the kernel's limit is 128 KiB."""

_WRITE = "import os, sys; open(sys.argv[1], sys.argv[2], encoding='utf-8').write(os.environ['CHUNK'])"


@dataclass(frozen=True)
class Outcome:
    status: int
    stdout: str
    stderr: str


class Workshop:
    """One build container; made by `workshop`."""

    def __init__(self, site: Site, container: str, progress: Progress) -> None:
        self._site = site
        self._container = container
        self._progress = progress
        self._seconds = site.settings.build_timeout

    def run(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        log: Callable[[str], None] | None = None,
        quiet: bool = False,
    ) -> Outcome:
        """Run a command to its end; its lines go to the work's log, or to `log`, as they come.

        `env` is for this command alone: it is in no configuration and no image. With `quiet` standard output, which is
        an answer, is not logged.
        """
        api = self._site.api
        made = api.exec_create(self._container, list(command), environment=dict(env or {}))["Id"]
        chunks = api.exec_start(made, stream=True, demux=True)
        kept = (deque[str](maxlen=MAX_KEPT), deque[str](maxlen=MAX_KEPT))
        lines = (patience.Lines(), patience.Lines())
        say = log or self._progress.log

        def take(which: int, found: list[str]) -> None:
            kept[which].extend(found)
            for line in found:
                if line.strip() and not (quiet and which == 0):
                    say(line)

        for pair in patience.items(chunks, self._progress, seconds=self._seconds, doing=f"run {command[0]}"):
            for which, chunk in enumerate(pair):
                take(which, lines[which].feed(chunk or b""))
        for which in (0, 1):
            take(which, lines[which].end())
        return Outcome(self._status(made), "\n".join(kept[0]), "\n".join(kept[1]))

    def _status(self, made: str) -> int:
        status = self._site.api.exec_inspect(made)["ExitCode"]
        if status is None:
            raise Internal("the build container ended before its command did")
        return int(status)

    def write(self, path: str, content: str) -> None:
        """Make a file in the container's tmpfs."""
        chunk = CHUNK_BYTES if content.isascii() else CHUNK_BYTES // 4
        for start in range(0, max(1, len(content)), chunk):
            command = ["python3", "-I", "-S", "-c", _WRITE, path, "a" if start else "w"]
            made = self.run(command, {"CHUNK": content[start : start + chunk]})
            must(made, "put a file into the build container")

    def commit(self, config: Mapping[str, Any]) -> str:
        """The ID of an image of what the container holds, configured as said and not as the container is."""

        def commit() -> str:
            return str(self._site.slow.commit(self._container, pause=False, conf=dict(config))["Id"])

        def unwanted(image: str) -> None:
            with contextlib.suppress(docker.errors.DockerException):
                self._site.api.remove_image(image)

        return patience.result(commit, self._progress, seconds=self._seconds, doing="commit the image", late=unwanted)


@contextlib.contextmanager
def workshop(
    site: Site, base: str, tools: str, progress: Progress, *, root_work: bool = False, key: str = ""
) -> Iterator[Workshop]:
    """A build container of the image `base`, removed at the end whatever happens.

    `tools` is the volume with uv, `key` the content address of what is built, as a label for people. With `root_work`
    Debian packages can be installed, which needs some of root's capabilities.
    """
    container = _create(site, base, tools, root_work=root_work, key=key)
    try:
        site.api.start(container)
        yield Workshop(site, container, progress)
    finally:
        site.remove_container(container)


def _create(site: Site, base: str, tools: str, *, root_work: bool, key: str) -> str:
    cache = f"venvd-{site.settings.home_id}-uv-cache"
    site.api.create_volume(cache, labels=site.labels(labels.CACHE))
    config = hardening.host_config(
        site.api,
        memory_bytes=site.settings.build_memory_bytes,
        cpus=site.settings.build_cpus,
        processes=512,
        network="bridge",
        tmpfs={"/tmp": f"size={SCRATCH_BYTES},mode=1777,exec,nosuid,nodev"},  # noqa: S108
        mounts=[Mount(TOOLS, tools, type="volume", read_only=True), Mount(CACHE, cache, type="volume")],
        read_only=False,
        capabilities=APT_CAPABILITIES if root_work else (),
    )
    return hardening.neutral(
        site.api,
        base,
        config=config,
        labels=site.labels(labels.BUILD, **({"key": key} if key else {})),
        command=["python3", "-I", "-S", "-c", "import time\nwhile True: time.sleep(3600)"],
        name=f"venvd-build-{secrets.token_hex(6)}",
        user="0:0",
        working_dir="/",
    )


def must(outcome: Outcome, doing: str, kind: type[VenvdError] = Internal) -> str:
    """The standard output of a command that should have succeeded."""
    if outcome.status != 0:
        said = outcome.stderr.strip() or outcome.stdout.strip() or "it said nothing"
        raise kind(f"could not {doing}: {said[-2000:]}")
    return outcome.stdout
