"""Calls an action as soon as user code has imported a module."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, Callable, Optional


class AfterImport:
    """A finder of `sys.meta_path` that finds one module as Python does, and calls an action after its import."""

    def __init__(self, name: str, action: Callable[[ModuleType], object]) -> None:
        self._name = name
        self._action = action

    def find_spec(self, name: str, path: Any = None, target: Optional[ModuleType] = None) -> Any:
        """Find the module with the other finders. Return None for any other module."""
        if name != self._name:
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
            self._action(sys.modules.get(self._name, module))  # the module may have replaced itself

        loader.exec_module = exec_module


def call_after_import(name: str, action: Callable[[ModuleType], object]) -> None:
    """Call `action` with a module: now if it is imported, else after its import."""
    module = sys.modules.get(name)
    if module is not None:
        action(module)
    else:
        sys.meta_path.insert(0, AfterImport(name, action))
