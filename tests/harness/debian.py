"""Debian packages and an index of them, as files of an image: apt reads both without a network."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field

REPOSITORY = "repository"
"""The directory of an image, below its root."""


@dataclass(frozen=True)
class DebianPackage:
    """A package.

    Attributes:
        name: of the package.
        files: content by path.
        script: what runs after the package is unpacked.
    """

    name: str
    files: Mapping[str, str] = field(default_factory=dict)
    script: str = ""

    @property
    def control(self) -> str:
        return f"Package: {self.name}\nVersion: 1\nArchitecture: all\nMaintainer: tests\nDescription: for tests\n"

    def pack(self) -> bytes:
        script = {"postinst": f"#!/bin/sh\nset -e\n{self.script}\n"} if self.script else {}
        members = {
            "debian-binary": b"2.0\n",
            "control.tar.gz": _make_tar({"control": self.control, **script}, 0o755),
            "data.tar.gz": _make_tar(self.files, 0o644),
        }
        parts = [b"!<arch>\n"]
        for name, content in members.items():
            parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
            parts.append(content + b"\n" * (len(content) % 2))
        return b"".join(parts)


def _make_tar(files: Mapping[str, str], mode: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        folders = {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)}
        for folder in ["", *sorted(folders)]:
            entry = tarfile.TarInfo(f"./{folder}")
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, 1_600_000_000
            archive.addfile(entry)
        for path, text in sorted(files.items()):
            entry = tarfile.TarInfo(f"./{path}")
            entry.mode, entry.mtime, entry.size = mode, 1_600_000_000, len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def add_repository(layer: tarfile.TarFile, packages: list[DebianPackage]) -> None:
    """Add to a layer what makes its image take Debian packages from these alone."""
    files = {f"{REPOSITORY}/{package.name}.deb": package.pack() for package in packages}
    entries = [
        f"{package.control}Filename: ./{package.name}.deb\nSize: {len(content)}\n"
        f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        for package, content in zip(packages, files.values(), strict=True)
    ]
    files[f"{REPOSITORY}/Packages"] = "\n".join(entries).encode()
    files["etc/apt/sources.list"] = f"deb [trusted=yes] file:/{REPOSITORY} ./\n".encode()
    files["etc/apt/.wh.sources.list.d"] = b""
    for path, content in files.items():
        entry = tarfile.TarInfo(path)
        entry.mode, entry.size = 0o644, len(content)
        layer.addfile(entry, io.BytesIO(content))
