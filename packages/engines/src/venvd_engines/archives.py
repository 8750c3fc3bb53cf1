"""The files of worker archives in a home: one for each version that has run here."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from venvd_contract.resources import Leftover
from venvd_worker import archive


def leftovers(directory: Path, used: Collection[str]) -> Iterator[Leftover]:
    """Yield the archives in a directory whose names are not `used`."""
    for path in sorted(directory.glob("venvd-worker-*.pyz")):
        if path.name not in used:
            current = path.stem == f"venvd-worker-{archive.version()}"
            yield Leftover("worker", str(path), current=current, sizeBytes=path.stat().st_size)


def remove(name: str) -> None:
    """Remove an archive that `leftovers` yielded."""
    Path(name).unlink(missing_ok=True)
