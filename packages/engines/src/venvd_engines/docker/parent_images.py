"""Parents: images of venvs from which a build can start. Such a build commits only the difference."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient
from venvd_engines.engine import VenvBuild

_MOST_LAYERS = 32
"""The most layers of a parent: the engine has room for about 127, and each layer costs time at a start."""


@dataclass(frozen=True)
class Parent:
    """An image that has some of the packages of a lock.

    Attributes:
        ref: the ID of the image.
        added: the canonical names of the lock's other packages.
    """

    ref: str
    added: tuple[str, ...]


class ParentImages:
    """Finds the parents of builds by labels of the images of this home."""

    def __init__(self, client: DockerClient) -> None:
        self._client = client

    def describe(self, venv: VenvBuild) -> dict[str, str]:
        """Return the labels that make an image a parent for later builds; none if it cannot be one.

        An image with apt packages cannot be one: what apt installs depends on the day. Nor can an image whose packages
        may have run their code: they can have changed files of others, and another venv must not get such files.
        """
        if venv.apt_packages or not venv.lock or self._client.settings.allow_source_builds:
            return {labels.FOUNDATION: "", labels.LINES: ""}
        return {labels.FOUNDATION: _digest_foundation(venv), labels.LINES: " ".join(sorted(_digest_lines(venv.lock)))}

    def find(self, venv: VenvBuild, tag_start: str) -> Parent | None:
        """Return the parent with the most lines of the lock. It must have no line that the lock lacks.

        Args:
            venv: the venv to build.
            tag_start: how the tags of accepted images start; images with other tags are not parents.
        """
        if not self.describe(venv)[labels.FOUNDATION]:
            return None
        names = {digest: line.split("==", 1)[0] for digest, line in _digest_lines(venv.lock).items()}
        best: tuple[set[str], str] = (set(), "")
        foundation = _digest_foundation(venv)
        for image in self._client.list_images(f"{tag_start}*"):
            if image["Labels"].get(labels.FOUNDATION) != foundation:
                continue
            lines = set(image["Labels"].get(labels.LINES, "").split())
            if len(best[0]) < len(lines) and lines < names.keys():
                best = lines, image["Id"]
        lines, ref = best
        if not ref or not self._has_room(ref):
            return None
        return Parent(ref, tuple(sorted({name for digest, name in names.items() if digest not in lines})))

    def _has_room(self, ref: str) -> bool:
        image = self._client.inspect_image(ref)
        return image is not None and len(image["RootFS"]["Layers"]) < _MOST_LAYERS


def _digest_foundation(venv: VenvBuild) -> str:
    """Return a digest of the inputs of a venv other than its lock."""
    parts = [venv.runtime.resolved, venv.runtime.base, venv.layout]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _digest_lines(lock: str) -> dict[str, str]:
    """Return the lines of a lock by their digests."""
    return {hashlib.sha256(line.encode()).hexdigest()[:16]: line for line in lock.splitlines()}
