"""A program for the build container: it prepares installed packages for a read-only image.

The base interpreter runs it without `site`; it imports and runs none of the packages. It prints the list of packages as
one line of JSON. Runs on CPython 3.9 and newer.
"""

from __future__ import annotations

import compileall
import importlib.metadata
import importlib.util
import json
import os
import py_compile
import re
import sys
import sysconfig
from pathlib import Path

UNUSED = re.compile(r"/(tests?|idlelib|lib2to3|turtledemo|ensurepip|pydoc_data|site-packages|dist-packages)/")
TESTS = re.compile(r"/tests?/")


def point_scripts(folder: Path, python: Path) -> None:
    """Make scripts start the venv's interpreter in place of the base one."""
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("r+b") as script:
            first = script.readline()
            if not first.startswith(b"#!") or b"python" not in first:
                continue
            rest = script.read()
            script.seek(0)
            script.truncate()
            script.write(b"#!" + os.fsencode(python) + b"\n" + rest)


def compile_packages(folder: Path, workers: int) -> None:
    """Compile bytecode that is never checked against its source: the image is read-only."""
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(
        str(folder), maxlevels=50, force=True, quiet=2, rx=TESTS, workers=workers, invalidation_mode=unchecked
    )


def compile_library(workers: int) -> None:
    """Compile the standard library where the base image lacks its bytecode, as official images do."""
    if not Path(importlib.util.cache_from_source(os.__file__)).exists():
        folder = sysconfig.get_path("stdlib")
        compileall.compile_dir(folder, maxlevels=20, quiet=2, rx=UNUSED, workers=workers)


def list_packages(folder: Path) -> list[tuple[str, str]]:
    """Name and version of each package."""
    versions = {}
    for distribution in importlib.metadata.distributions(path=[str(folder)]):
        name = distribution.metadata["Name"]
        if name:
            versions[name] = distribution.version
    return sorted(versions.items(), key=lambda item: item[0].lower())


def main(prefix: Path, workers: int) -> None:
    folder = prefix / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    point_scripts(prefix / "bin", prefix / "bin" / "python")
    lock = prefix / ".lock"
    if lock.exists():
        lock.unlink()
    compile_packages(folder, workers)
    compile_library(workers)
    sys.stdout.write(json.dumps(list_packages(folder)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
