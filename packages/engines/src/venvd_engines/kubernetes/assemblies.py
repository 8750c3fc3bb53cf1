"""The volume with the .NET assemblies of a launch, which the worker host mounts read-only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from venvd_contract.errors import InvalidRequest
from venvd_engines.kubernetes.settings import KubernetesSettings

DIRECTORY = "/assemblies"
"""Where user code sees the assemblies."""
_VOLUME = "assemblies"


def make_volume(options: KubernetesSettings, directory: Path) -> dict[str, Any]:
    """Make the volume with a directory of assemblies.

    Raises:
        InvalidRequest: no volume has the directory.
    """
    return {"name": _VOLUME, **options.assemblies[_find_top(options, directory)]}


def make_mount(options: KubernetesSettings, directory: Path) -> dict[str, Any]:
    """Make the mount of that directory. It may be a part of the volume.

    Raises:
        InvalidRequest: no volume has the directory.
    """
    inside = os.path.relpath(directory, _find_top(options, directory))
    part = {} if inside == "." else {"subPath": inside}
    return {"name": _VOLUME, "mountPath": DIRECTORY, "readOnly": True, **part}


def _find_top(options: KubernetesSettings, directory: Path) -> str:
    for top in options.assemblies:
        if directory.is_relative_to(top):
            return top
    named = ", ".join(options.assemblies) or "none"
    raise InvalidRequest(
        f"assemblies: no volume has {directory}. The value backends.assemblies of the chart names volumes "
        f"(VENVD_KUBERNETES_ASSEMBLIES; now {named})"
    )
