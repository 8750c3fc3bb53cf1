"""The worker archive: all programs of a worker host in one file, which Python runs directly.

Beside each source lies its bytecode for the CPython that made the archive. Another CPython does not accept it, and
compiles the sources at each start. This takes a third of the time of the start. `python -I -S ARCHIVE compile` replaces
the bytecode by its own.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import tempfile
import zipfile
from functools import lru_cache
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Dict

import venvd_contract
import venvd_worker

_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNCHECKED = b"\1\0\0\0" + bytes(8)
"""Flags and hash of bytecode that Python never compares with a source (PEP 552)."""


def version() -> str:
    """Return 12 hexadecimal digits that change with the sources and with the CPython that compiles them."""
    return _version()


def build(directory: Path) -> Path:
    """Return the archive of this version in `directory`, and make it if it is absent.

    A reader never sees an incomplete file.
    """
    path = directory / "venvd-worker-{}.pyz".format(version())
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=directory, prefix=".venvd-worker-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                _write(file, _sources())
                os.fchmod(file.fileno(), 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    return path


def recompile(path: str) -> None:
    """Replace the bytecode in an archive by that of this CPython, in one step; keep the mode of the file."""
    with zipfile.ZipFile(path) as archive:
        sources = {name: archive.read(name) for name in archive.namelist() if name.endswith(".py")}
    descriptor, name = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".venvd-worker-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write(file, sources)
            os.fchmod(file.fileno(), os.stat(path).st_mode & 0o777)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@lru_cache(maxsize=None)
def _version() -> str:
    digest = hashlib.sha256(MAGIC_NUMBER)
    for name, content in _sources().items():
        digest.update("{}\0{}\0".format(name, len(content)).encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def _sources() -> Dict[str, bytes]:
    contents = {"__main__.py": Path(__file__).with_name("bootstrap.py").read_bytes()}
    for package in (venvd_contract, venvd_worker):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            contents[str(Path(root.name) / path.relative_to(root))] = path.read_bytes()
    return contents


def _compile(name: str, source: bytes) -> bytes:
    """Compile a source to the content of its `.pyc` file."""
    code = compile(source, "venvd-worker.pyz/" + name, "exec", dont_inherit=True)
    return MAGIC_NUMBER + _UNCHECKED + marshal.dumps(code)


def _write(file: object, sources: Dict[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for name, source in sources.items():
            for member_name, content in ((name, source), (name + "c", _compile(name, source))):
                member = zipfile.ZipInfo(member_name, _EPOCH)
                member.external_attr = 0o644 << 16
                archive.writestr(member, content)
