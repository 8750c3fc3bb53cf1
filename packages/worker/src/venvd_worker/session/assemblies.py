"""References the operator's .NET assemblies as soon as user code imports `clr`."""

from __future__ import annotations

import os
import sys
from typing import Any

from venvd_worker.session.import_hooks import call_after_import

VARIABLE = "VENVD_ASSEMBLIES"
"""Names the directory with the assemblies."""


def prepare() -> None:
    """Reference the assemblies of this session, if it has some, when `clr` is imported."""
    directory = os.environ.get(VARIABLE)
    if directory:
        call_after_import("clr", lambda clr: _reference(clr, directory))


def _reference(clr: Any, directory: str) -> None:
    """Reference every DLL of a directory, which also joins `sys.path`, where `clr.AddReference` looks by name."""
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
