"""The `__main__` of the archive: loads our modules so that no code of the user's can reach into them.

Each of our modules gets its own copy of the built-ins. If the user replaces a function in `builtins`, our modules still
call the original one. The archive is never on `sys.path`.
"""

from __future__ import annotations

import builtins
import sys
import zipimport
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Dict, Optional, Tuple, cast

OWN = ("venvd_contract", "venvd_worker")


class Loader:
    """Finds and loads our modules in the archive, and nothing else."""

    def __init__(self, archive: str) -> None:
        self._archive = archive
        self._importers: Dict[str, zipimport.zipimporter] = {}
        self._builtins = dict(vars(builtins))

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Optional[ModuleSpec]:
        if name.partition(".")[0] not in OWN:
            return None
        importer, last = self._split(name)
        package = importer.is_package(last)
        origin = "{}/{}{}".format(self._archive, name.replace(".", "/"), "/__init__.py" if package else ".py")
        spec = ModuleSpec(name, cast("Any", self), origin=origin, is_package=package)
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__dict__["__builtins__"] = self._builtins
        return module

    def exec_module(self, module: ModuleType) -> None:
        importer, last = self._split(module.__name__)
        exec(importer.get_code(last), module.__dict__)  # noqa: S102 - this is what a loader does

    def _split(self, name: str) -> Tuple[zipimport.zipimporter, str]:
        """Return the importer of a module's package, and the last part of its name, for which zipimport looks."""
        package, _, last = name.rpartition(".")
        importer = self._importers.get(package)
        if importer is None:
            folder = "{}/{}".format(self._archive, package.replace(".", "/")) if package else self._archive
            importer = self._importers[package] = zipimport.zipimporter(folder)
        return importer, last


def start() -> None:
    """Run the program that the command line names."""
    archive = globals()["__loader__"].archive
    sys.path[:] = [path for path in sys.path if path != archive]
    sys.path_importer_cache.pop(archive, None)
    sys.meta_path.insert(0, Loader(archive))
    from venvd_worker.__main__ import main  # noqa: PLC0415 - what finds it is there only now

    main()


if __name__ == "__main__":  # false if multiprocessing runs the main program again
    start()
