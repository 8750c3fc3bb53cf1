"""numpy's functions on proxies: the session runs them, unless they change local memory or local files."""

from __future__ import annotations

import sys
from typing import Any

_FILES = frozenset({"save", "savez", "savez_compressed", "savetxt"})
_IN_PLACE = frozenset({"copyto", "fill_diagonal", "place", "put", "put_along_axis", "putmask", "at"})
_CALL_UFUNC = "getattr(_0, _1)(*_2, **_3)"
_CALL_FUNCTION = "_0(*_1, **_2)"


class ArrayFunctions:
    """The two methods that numpy calls instead of its functions."""

    __slots__ = ()

    def _venvd_evaluate(self, expression: str, *values: Any) -> Any:
        raise NotImplementedError

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if _is_local(method, inputs, kwargs):
            return getattr(ufunc, method)(*_fetch(inputs), **_fetch(kwargs))
        kwargs = {name: value[0] if name == "out" and len(value) == 1 else value for name, value in kwargs.items()}
        return self._venvd_evaluate(_CALL_UFUNC, ufunc, method, list(inputs), kwargs)

    def __array_function__(self, function: Any, _types: Any, args: Any, kwargs: Any) -> Any:
        if function.__name__ in _FILES or _is_local(function.__name__, args, kwargs):
            return function(*_fetch(args), **_fetch(kwargs))
        return self._venvd_evaluate(_CALL_FUNCTION, function, list(args), kwargs)


def _is_local(name: str, args: Any, kwargs: Any) -> bool:
    """Return whether a function changes memory of this program, which the session does not have."""
    out = kwargs.get("out")
    changed = list(out) if type(out) is tuple else [out]
    if name in _IN_PLACE and args:
        changed.append(args[0])
    return any(one is not None and not isinstance(one, ArrayFunctions) for one in changed)


def _fetch(values: Any) -> Any:
    """Return the values with local arrays instead of proxies."""
    if isinstance(values, ArrayFunctions):
        return sys.modules["numpy"].asarray(values)
    if type(values) is dict:
        return {name: _fetch(value) for name, value in values.items()}
    return type(values)(map(_fetch, values)) if type(values) in {list, tuple} else values
