"""A layer of an image: a compressed archive that is the same, bit for bit, for the same entries."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

LEVEL = 4
"""The level of gzip: numpy takes a second, and a twentieth more space than at the best level."""


@dataclass(frozen=True)
class Layer:
    """A compressed layer: digest and size of the file, and the digest of its uncompressed content."""

    digest: str
    size: int
    diff_id: str


class _Hashing:
    """A file to write to. It hashes all that it gets."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        self._file.write(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


def pack(out: BinaryIO, fill: Callable[[tarfile.TarFile], None]) -> Layer:
    """Write a layer with the entries that `fill` adds."""
    packed = _Hashing(out)
    with gzip.GzipFile("", "wb", LEVEL, packed, mtime=0) as compressed:
        plain = _Hashing(compressed)
        with tarfile.open(fileobj=plain, mode="w|", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
            fill(archive)
    return Layer(f"sha256:{packed.hash.hexdigest()}", packed.size, f"sha256:{plain.hash.hexdigest()}")
