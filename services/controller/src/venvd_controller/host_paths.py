"""Paths of the host that a specification names: each must lie below a directory that the operator allows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from venvd_contract.errors import Forbidden, InvalidRequest


@dataclass(frozen=True)
class HostPaths:
    """The paths that specifications may name on the host.

    Attributes:
        run_dir: the directory of the directories with sockets.
        allowed: the directories of `VENVD_HOST_DIRS`.
        pipe_name_dir: the directory of links to pipes.
    """

    run_dir: Path
    allowed: Sequence[Path] = ()
    pipe_name_dir: Path = Path("/tmp")  # noqa: S108 - where .NET looks

    def check(self, field: str, text: str) -> str:
        """Return a path without `..`, and without links that this process sees, except those of a mounted Secret.

        Raises:
            InvalidRequest: the path is not absolute.
            Forbidden: the path is not below an allowed directory.
        """
        if not text.startswith("/") or "\0" in text:
            raise InvalidRequest(f'{field}: "{text[:200]}" is no absolute path')
        path = os.path.realpath(text)
        folder = os.path.realpath(Path(text).parent)
        # a file of a mounted Secret is a link, and each renewal leads it elsewhere
        if path.startswith(f"{folder}/.."):
            path = f"{folder}/{Path(text).name}"
        if not any(Path(path).is_relative_to(os.path.realpath(directory)) for directory in self.allowed):
            listed = f"has {', '.join(map(str, self.allowed))}" if self.allowed else "is empty"
            raise Forbidden(
                f"{field}: {text[:200]} is below no directory of VENVD_HOST_DIRS of the controller, which {listed}"
            )
        return path

    def check_again(self, field: str, path: str) -> str:
        """Check a path again that was checked when the client set it, since its target may have changed.

        Raises:
            Forbidden: a link in the path leads elsewhere now, or its directory is not allowed any more.
            InvalidRequest: the path is gone.
        """
        if self.check(field, path) != path:
            raise Forbidden(f"{field}: {path} is a link to {os.path.realpath(path)} by now: name where it shall lead")
        within = [directory for directory in self.allowed if Path(path).is_relative_to(os.path.realpath(directory))]
        # a controller in a container may not see the directories of its host; then the engine checks the path
        if any(map(os.path.isdir, within)) and not os.path.lexists(path):
            raise InvalidRequest(f"{field}: {path} does not exist on the host of the controller any more")
        return path
