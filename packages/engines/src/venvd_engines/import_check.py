"""The check of a built venv: the engine accepts a venv only if it can import certain modules."""

from __future__ import annotations

from collections.abc import Sequence

from venvd_contract.errors import InvalidRequest

CODE = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        sys.exit(f"import {name} raises {type(error).__name__}: {error}")
"""
"""A program for the venv's interpreter; its arguments are the modules. It exits with 0 if all were imported."""
SECONDS = 120.0


def check_outcome(modules: Sequence[str], status: int, output: str) -> None:
    """Raise an error if the program did not succeed.

    Raises:
        InvalidRequest: a module cannot be imported; the message says which, and what it raised.
    """
    if status != 0:
        lines = output.strip()[-2000:] or f"the interpreter ended with status {status}"
        raise InvalidRequest(f"the venv does not pass its checks ({', '.join(modules)}): {lines}")
