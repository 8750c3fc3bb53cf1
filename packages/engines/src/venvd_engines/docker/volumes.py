"""Volumes that are filled once and mounted read-only: the worker archive, and the tools of builds."""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

import docker.errors
from docker.types import Mount

from venvd_engines.docker import hardening, labels
from venvd_engines.docker.site import Site

Files = Callable[[], Mapping[str, bytes]]
"""Read only where a volume is still empty."""

_PLACE = "/fill"
_MARK = ".complete"


def tar(files: Mapping[str, bytes], *, mode: int = 0o644) -> bytes:
    """The files as one archive, the same for the same content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class FilledVolumes:
    """Named volumes of this home by role and content.

    A volume counts as filled once it holds a mark, which is written last: a controller that was killed while it
    filled one leaves none that looks whole.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._filled: set[str] = set()
        self._lock = threading.Lock()

    def name(self, role: str, version: str) -> str:
        return f"venvd-{self._site.settings.home_id}-{role}-{version}"

    def ensure(self, role: str, version: str, files: Files, image: str, *, mode: int = 0o444) -> str:
        """The name of the volume that holds the files; `image` is any that is there, to reach it through."""
        name = self.name(role, version)
        with self._lock:
            if name not in self._filled or not self._exists(name):
                self._fill(name, role, files, image, mode)
                self._filled.add(name)
        return name

    def remove_stale(self) -> None:
        """Remove the filled volumes of this home that no container uses and this process does not know."""
        api = self._site.api
        for role in (labels.TOOLS, labels.ARCHIVE):
            for volume in api.volumes(self._site.filters(role))["Volumes"] or ():
                if volume["Name"] not in self._filled:
                    with contextlib.suppress(docker.errors.APIError):
                        api.remove_volume(volume["Name"])

    def known(self) -> set[str]:
        """The volumes that this process has filled or found filled: those of its version."""
        with self._lock:
            return set(self._filled)

    def remove(self, name: str) -> None:
        """Remove a volume that no container uses."""
        with self._lock, contextlib.suppress(docker.errors.NotFound):
            self._filled.discard(name)
            self._site.api.remove_volume(name)

    def _exists(self, name: str) -> bool:
        try:
            self._site.api.inspect_volume(name)
        except docker.errors.NotFound:
            return False
        return True

    def _fill(self, name: str, role: str, files: Files, image: str, mode: int) -> None:
        api = self._site.api
        api.create_volume(name, labels=self._site.labels(role))
        helper = self._helper(api, name, image)
        try:
            if not self._marked(api, helper):
                api.put_archive(helper, _PLACE, tar(files(), mode=mode))
                api.put_archive(helper, _PLACE, tar({_MARK: b""}))
        finally:
            api.remove_container(helper, force=True, v=True)

    def _helper(self, api: Any, name: str, image: str) -> str:
        """A container that is never started: the engine reaches into its volumes all the same."""
        mount = Mount(_PLACE, name, type="volume", no_copy=True)
        config = hardening.host_config(api, memory_bytes=64 << 20, cpus=1, processes=16, mounts=[mount])
        wanted = self._site.labels(labels.HELPER)
        return hardening.neutral(api, image, config=config, labels=wanted, command=["true"])

    @staticmethod
    def _marked(api: Any, helper: str) -> bool:
        try:
            stream, _ = api.get_archive(helper, f"{_PLACE}/{_MARK}")
        except docker.errors.NotFound:
            return False
        for _ in stream:
            pass
        return True
