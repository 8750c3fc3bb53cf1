"""A program for the build container: it prepares installed packages for a read-only image.

The base interpreter runs it without `site`; it imports and runs none of the packages. It prints the list of packages as
one line of JSON. Its arguments are the prefix and a number of processes. If all other packages are prepared already,
the names of the added packages follow. Runs on CPython 3.9 and newer.
"""

from __future__ import annotations

import compileall
import concurrent.futures
import functools
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
FEW = 50
"""This process itself compiles fewer files than this."""
SHARED_FILES = 3
"""The exit status if an added package has a file that another package has too."""


def point_scripts(folder: Path, python: Path) -> None:
    """Make scripts start the venv's interpreter in place of the base one."""
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_file():
            continue
        wanted = b"#!" + os.fsencode(python) + b"\n"
        with path.open("rb") as script:
            first = script.readline()
            if first == wanted or not first.startswith(b"#!") or b"python" not in first:
                continue
            rest = script.read()
        with path.open("r+b") as script:
            script.truncate()
            script.write(wanted + rest)


def compile_packages(folder: Path, workers: int) -> None:
    """Compile bytecode that Python never checks against its source: the image is read-only."""
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(
        str(folder), maxlevels=50, force=True, quiet=2, rx=TESTS, workers=workers, invalidation_mode=unchecked
    )


def compile_added(added: list[importlib.metadata.Distribution], workers: int) -> None:
    """Compile the files of single packages as `compile_packages` does."""
    paths = [str(file.locate()) for each in added for file in each.files or () if file.suffix == ".py"]
    wanted = [path for path in paths if not TESTS.search(path)]
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compile_file = functools.partial(compileall.compile_file, force=True, quiet=2, invalidation_mode=unchecked)
    if len(wanted) < FEW:
        for path in wanted:
            compile_file(path)
        return
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        list(pool.map(compile_file, wanted, chunksize=FEW))


def split_added(folder: Path, names: set[str]) -> list[importlib.metadata.Distribution]:
    """Return the added packages. End the program if one shares a file with a package that was there before."""
    added, others = [], {}
    for distribution in importlib.metadata.distributions(path=[str(folder)]):
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name in names:
            added.append(distribution)
        else:
            others.update({str(file): name for file in distribution.files or ()})
    for distribution in added:
        for file in distribution.files or ():
            if str(file) in others:
                sys.stderr.write("{} and {} share files".format(distribution.metadata["Name"], others[str(file)]))
                sys.exit(SHARED_FILES)
    return added


def compile_library(workers: int) -> None:
    """Compile the standard library if the base image lacks its bytecode, as official images do."""
    if not Path(importlib.util.cache_from_source(os.__file__)).exists():
        folder = sysconfig.get_path("stdlib")
        compileall.compile_dir(folder, maxlevels=20, quiet=2, rx=UNUSED, workers=workers)


def list_packages(folder: Path) -> list[tuple[str, str]]:
    """Return the name and the version of each package."""
    versions = {}
    for distribution in importlib.metadata.distributions(path=[str(folder)]):
        name = distribution.metadata["Name"]
        if name:
            versions[name] = distribution.version
    return sorted(versions.items(), key=lambda item: item[0].lower())


def main(prefix: Path, workers: int, names: set[str]) -> None:
    folder = prefix / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    added = split_added(folder, names) if names else []
    point_scripts(prefix / "bin", prefix / "bin" / "python")
    lock = prefix / ".lock"
    if lock.exists():
        lock.unlink()
    if names:
        compile_added(added, workers)
    else:
        compile_packages(folder, workers)
    compile_library(workers)
    sys.stdout.write(json.dumps(list_packages(folder)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), set(sys.argv[3:]))
