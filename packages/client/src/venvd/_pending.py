"""Answers that an async program has not awaited yet."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NoReturn


def refuse(what: str) -> Any:
    def method(self: Unawaited, *_: Any) -> NoReturn:
        raise TypeError(self._venvd_refuse(what))

    method.__doc__ = f"Raise TypeError: {what} cannot await."
    return method


class Unawaited:
    """Refuses questions that Python would answer wrongly by itself, because the answer is in a session."""

    __slots__ = ()

    def _venvd_refuse(self, what: str) -> str:
        """Return what the TypeError says when Python asks for `what`."""
        raise NotImplementedError

    __bool__ = refuse("bool()")
    __len__ = refuse("len()")
    __iter__ = refuse("iteration")
    __contains__ = refuse("`in`")
    __reversed__ = refuse("reversed()")
    __int__ = refuse("int()")
    __float__ = refuse("float()")
    __complex__ = refuse("complex()")
    __index__ = refuse("a number's use as an index")
    __setitem__ = refuse("the assignment of an item")
    __delitem__ = refuse("`del` of an item")
    __next__ = refuse("next()")


class Pending(Unawaited, Coroutine[Any, Any, Any]):
    """The answer of an operator or a call, before the program awaits it."""

    __slots__ = ("__weakref__", "_coroutine", "_start", "_what")

    def __init__(self, what: str, start: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._what = what
        self._start: Callable[[], Coroutine[Any, Any, Any]] | None = start
        self._coroutine: Coroutine[Any, Any, Any] | None = None

    def __repr__(self) -> str:
        return f"<the answer of {self._what}, which was not awaited yet>"

    def __del__(self) -> None:
        if self._start is not None:
            warnings.warn(f"{self._what} of an async proxy was never awaited", RuntimeWarning, stacklevel=2)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._take().__await__()

    def __next__(self) -> Any:
        return self.send(None)  # event loops run a coroutine in this way

    def send(self, value: Any) -> Any:
        return self._take().send(value)

    def throw(self, *error: Any) -> Any:
        return self._take().throw(*error)

    def close(self) -> None:
        self._start = None
        if self._coroutine is not None:
            self._coroutine.close()

    def _take(self) -> Coroutine[Any, Any, Any]:
        if self._coroutine is None:
            if self._start is None:
                raise RuntimeError(f"the answer of {self._what} was closed")
            self._coroutine, self._start = self._start(), None
        return self._coroutine

    def _venvd_refuse(self, what: str) -> str:
        self._start = None  # the error says more than a warning about a missing await
        return f"{what} needs the answer of {self._what}: await it first, as in `await (p > 5)` or `await p.method()`"

    __eq__ = __ne__ = refuse("a comparison")
    __lt__ = __le__ = __gt__ = __ge__ = refuse("a comparison")
    __hash__ = object.__hash__
