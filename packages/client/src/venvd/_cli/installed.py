"""Reads a virtual environment of this machine: its name for venvd, and the packages in it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import click

from venvd_contract.resources import VenvSpec

_SECONDS = 60.0
_CODE = """
import importlib.metadata, json, sys, sysconfig
folders = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
packages = [
    (item.metadata["Name"], item.version, json.loads(item.read_text("direct_url.json") or "null"))
    for item in importlib.metadata.distributions(path=folders)
]
print(json.dumps({"python": "%d.%d" % sys.version_info[:2], "packages": packages}))
"""


def is_path(word: str) -> bool:
    """Return whether a word names a folder, rather than a venv of the controller."""
    return word.startswith("/")


def make_name(folder: Path) -> str:
    """Return a stable name for the venv of a folder. `.venv` gets its name from the folder around it."""
    own = folder.name if folder.name.strip(".") not in {"venv", "env"} else folder.parent.name
    label = re.sub(r"[^a-z0-9]+", "-", own.lower()).strip("-")[:40].rstrip("-")
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    return "-".join(part for part in ("path", label, digest) if part)


def read_spec(folder: Path) -> VenvSpec:
    """Return the specification of a venv with the packages that are installed in a folder.

    Raises:
        ClickException: the folder's Python does not start, or a package does not come from the package index.
    """
    python = folder / "bin" / "python"
    try:
        answer = subprocess.run([python, "-I", "-c", _CODE], capture_output=True, timeout=_SECONDS, check=True)
        data = json.loads(answer.stdout)
    except subprocess.CalledProcessError as error:
        raise click.ClickException(f"{python} fails: {error.stderr.decode(errors='replace')[-1000:].strip()}") from None
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise click.ClickException(f"{folder} is no virtual environment that can be read: {error}") from None
    lines = [_pin(name, version, source) for name, version, source in data["packages"] if name != "pip"]
    return VenvSpec(python=data["python"], requirements=sorted(lines))


def _pin(name: str, version: str, source: dict[str, Any] | None) -> str:
    if source is not None:
        how = "is an editable install" if source.get("dir_info", {}).get("editable") else f"comes from {source['url']}"
        raise click.ClickException(
            f"{name} {how}, and not from the package index: build it into an index, or leave it out of the environment"
        )
    return f"{name}=={version}"
