"""The class and the documentation that proxies show for their objects."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import BuiltinFunctionType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

from venvd._call_sites import asks_for_class

T = TypeVar("T", bound=type)


class _Unknown:
    """The class of a proxy whose session was not asked yet."""


UNKNOWN = _Unknown

_PLACES = sysconfig.get_paths()
_LIBRARIES = tuple(
    f"{place}{os.sep}"
    for place in {
        str(Path(__file__).parent),
        *(_PLACES[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
)
# Code that takes a proxy for one of these would look into its code or its namespace.
_NEVER = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)


def find_local_class(names: Iterable[tuple[str, str]]) -> type | None:
    """Return the first class other than `object` that this program has imported, or None if there is none.

    Args:
        names: module and qualified name of each class, from the object's own to its last base.
    """
    for module, name in names:
        parts = module.split(".")
        for end in range(len(parts), 0, -1):
            candidate: Any = sys.modules.get(".".join(parts[:end])) if module != "__main__" else None
            for part in name.split("."):
                candidate = getattr(candidate, part, None)
            if isinstance(candidate, type) and candidate is not object:
                return None if issubclass(candidate, _NEVER) else candidate
    return None


def is_class_question(frame: FrameType | None) -> bool:
    """Return whether a frame asks for a class, and runs the program's own code and not that of an installed package."""
    while frame is not None and frame.f_code.co_filename == "<frozen abc>":
        frame = frame.f_back
    return frame is not None and not _is_library_file(frame.f_code.co_filename) and asks_for_class(frame)


@cache
def _is_library_file(name: str) -> bool:
    return name.startswith(("<frozen ", *_LIBRARIES)) or "/site-packages/" in name or "/dist-packages/" in name


class RemoteDoc:
    """The `__doc__` of a class of proxies: the class's own text for the class, and the object's text for a proxy."""

    def __init__(self, text: str | None, get: Callable[[Any], Any]) -> None:
        self._text = text
        self._get = get

    def __get__(self, proxy: Any, owner: type | None = None) -> Any:
        return self._text if proxy is None else self._get(proxy)


def show_remote_doc(get: Callable[[Any], Any]) -> Callable[[T], T]:
    """Decorate a class of proxies so that `proxy.__doc__` is `get(proxy)`."""

    def decorate(owner: T) -> T:
        owner.__doc__ = RemoteDoc(owner.__doc__, get)  # type: ignore[assignment]
        return owner

    return decorate
