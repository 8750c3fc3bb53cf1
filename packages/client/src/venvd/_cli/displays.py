"""Shows rich results at a terminal: prints their text, and saves what a terminal cannot show to files."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from venvd._cli.terminal import write

_SUFFIXES = {
    "text/html": ".html",
    "image/svg+xml": ".svg",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "application/pdf": ".pdf",
}
_BINARY = frozenset({"image/png", "image/jpeg", "application/pdf"})
_TEXTS = ("text/plain", "text/markdown", "text/latex", "application/json")


class Displays:
    """Prints MIME bundles, and saves the formats that a browser or viewer shows.

    Args:
        directory: the directory of the files. None makes a temporary directory for the first file.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._count = 0

    def show(self, bundle: Mapping[str, Any]) -> None:
        """Print the text of a bundle and the names of the files with its other formats."""
        text = next((bundle[kind] for kind in _TEXTS if kind in bundle), None)
        if text is not None:
            write(text if isinstance(text, str) else json.dumps(text))
        shown = [kind for kind in _SUFFIXES if isinstance(bundle.get(kind), str)]
        if not shown:
            return
        self._count += 1
        for kind in shown:
            data = bundle[kind]
            path = self._find_directory() / f"display-{self._count}{_SUFFIXES[kind]}"
            path.write_bytes(base64.b64decode(data) if kind in _BINARY else data.encode())
            write(f"({kind} saved as {path})", err=True)

    def _find_directory(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="venvd-shell-"))
        self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory
