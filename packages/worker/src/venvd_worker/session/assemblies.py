"""References the operator's .NET assemblies as soon as user code imports `clr`."""

from __future__ import annotations

import os
import sys
from typing import Any

from venvd_worker.session.import_hooks import call_after_import

VARIABLE = "VENVD_ASSEMBLIES"
"""The environment variable with the directory of the assemblies."""


def prepare() -> None:
    """Have the import of `clr` reference the assemblies of this session, if it has some."""
    directory = os.environ.get(VARIABLE)
    if directory:
        call_after_import("clr", lambda clr: _reference(clr, directory))


def _reference(clr: Any, directory: str) -> None:
    """Reference every DLL of a directory. Add it to `sys.path`, where `clr.AddReference` looks for names."""
    if directory not in sys.path:
        sys.path.append(directory)
    for name in sorted(os.listdir(directory)):
        if not name.lower().endswith(".dll"):
            continue
        try:
            clr.AddReference(os.path.join(directory, name))
        except Exception as error:  # noqa: BLE001 - a library without .NET in it, for example
            reason = str(error).splitlines()[:1] or [type(error).__name__]
            print("{} is not referenced: {}".format(name, reason[0]), file=sys.stderr)  # noqa: T201
