"""The version of the server that the local engine starts: the server of the controller's installation."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
from functools import cache
from pathlib import Path

from venvd_worker import archive

_OURS = re.compile(r"venvd(-[a-z-]+)?")
_MODULES = {"venvd": ("venvd", "venvd_contract", "venvd_proto")}
"""The packages of distributions whose packages do not have their name."""


@cache
def identify_server(backend_type: str) -> str | None:
    """Make a digest of the sources of a server and of the worker archive; None if no such server is installed."""
    try:
        distributions = _find_distributions(f"venvd-{backend_type}-backend")
    except importlib.metadata.PackageNotFoundError:
        return None
    digest = hashlib.sha256(archive.version().encode())
    for distribution in sorted(distributions):
        for module in _MODULES.get(distribution, (distribution.replace("-", "_"),)):
            for path in _list_sources(module):
                digest.update(f"\0{module}/{path.name}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _find_distributions(name: str) -> set[str]:
    """Find a distribution and the distributions of venvd that it needs, directly or not."""
    names = {name}
    for requirement in importlib.metadata.requires(name) or ():
        if (match := _OURS.match(requirement)) and match[0] not in names:
            names |= _find_distributions(match[0])
    return names


def _list_sources(module: str) -> list[Path]:
    spec = importlib.util.find_spec(module)
    folders = () if spec is None else spec.submodule_search_locations or ()
    return sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
