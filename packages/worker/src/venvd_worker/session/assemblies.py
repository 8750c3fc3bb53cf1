"""References the operator's .NET assemblies as soon as user code imports `clr`."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any, Optional

VARIABLE = "VENVD_ASSEMBLIES"
"""Names the directory with the assemblies."""


def prepare() -> None:
    """Reference the assemblies of this session, if it has some, when `clr` is imported."""
    directory = os.environ.get(VARIABLE)
    if directory:
        sys.meta_path.insert(0, ClrFinder(directory))


class ClrFinder:
    """Finds `clr` as Python does, and then references every DLL of a directory.

    The directory also joins `sys.path`, where `clr.AddReference` looks for assemblies by name.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def find_spec(self, name: str, path: Any = None, target: Optional[ModuleType] = None) -> Any:
        """Find `clr` with the other finders; nothing for other modules."""
        if name != "clr":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                self._extend(spec.loader)
                return spec
        return None

    def _extend(self, loader: Any) -> None:
        run = getattr(loader, "exec_module", None)
        if run is None:
            return

        def exec_module(module: ModuleType) -> None:
            run(module)
            self._reference()

        loader.exec_module = exec_module

    def _reference(self) -> None:
        clr: Any = sys.modules["clr"]  # the runtime has put a module of its own there
        if self._directory not in sys.path:
            sys.path.append(self._directory)
        for name in sorted(os.listdir(self._directory)):
            if not name.lower().endswith(".dll"):
                continue
            try:
                clr.AddReference(os.path.join(self._directory, name))
            except Exception as error:  # noqa: BLE001 - a library without .NET in it, for example
                reason = str(error).splitlines()[:1] or [type(error).__name__]
                print("{} is not referenced: {}".format(name, reason[0]), file=sys.stderr)  # noqa: T201
