"""Virtual environments that another program made. The engine checks and reads them, and never changes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from venvd_contract.errors import InvalidRequest
from venvd_engines.local.interpreters import OLDEST, Interpreter, ask


def find_interpreter(folder: Path, env: Mapping[str, str]) -> Interpreter:
    """Find the base interpreter of the virtual environment in a folder.

    Raises:
        InvalidRequest: the folder is not a virtual environment, or the worker does not support its interpreter.
    """
    if not (folder / "pyvenv.cfg").is_file():
        raise InvalidRequest(f"path: {folder} is no virtual environment: it has no file pyvenv.cfg")
    interpreter = ask(folder / "bin" / "python", env)
    if interpreter is None:
        raise InvalidRequest(
            f"path: {folder}/bin/python does not start, or is no CPython {OLDEST} or newer with a global lock"
        )
    return interpreter


def make_key(folder: Path, version: str, packages: list[tuple[str, str]]) -> str:
    """Make the content address of an environment from what was read: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(["adopted", str(folder), version, packages]).encode()).hexdigest()[:32]
