"""Objects that live in a session, used as if they were here."""
# ruff: noqa: SLF001 - a proxy's own members are named so that they hide none of its object's

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, NoReturn

from venvd import operators
from venvd.arrays import array_of
from venvd.errors import UserError, VenvdError
from venvd.flow import drive
from venvd.operators import InPlaceOperators, Operators, iteration, subscript
from venvd.scope import Scope

_OWN = frozenset({"_venvd_scope", "_venvd_id", "_venvd_type"})
# What numpy looks for before it takes an object for a sequence: answering with proxies would mislead it.
_NOT_REMOTE = frozenset({"__array_interface__", "__array_struct__", "__array_priority__", "__array_ufunc__"})


class RemoteObject(Operators, InPlaceOperators):
    """A proxy: attributes, calls, operators, indexing, iteration, `with`, `len`, `str` and the like go to the session.

    Each costs one call. Results that are plain data are values, all others proxies. Attributes whose names begin with
    `_venvd_` are the proxy's own. The handle is released after the proxy has died.
    """

    __slots__ = ("__weakref__", *_OWN)

    _venvd_scope: Scope
    _venvd_id: str
    _venvd_type: str

    def __init__(self, scope: Scope, handle: str, type_name: str) -> None:
        object.__setattr__(self, "_venvd_scope", scope)
        object.__setattr__(self, "_venvd_id", handle)
        object.__setattr__(self, "_venvd_type", type_name)

    def _venvd_run(self, call: Any) -> Any:
        return self._venvd_scope.backend.run_call(call)  # type: ignore[attr-defined]

    def _venvd_evaluate(self, expression: str, *values: Any) -> Any:
        return self._venvd_run(self._venvd_scope.eval(expression, operators.operands(values)))

    def _venvd_in_place(self, expression: str, other: Any) -> Any:
        result = self._venvd_evaluate(expression, self, other)
        return self if result is None else result

    # attributes and calls

    def __getattr__(self, name: str) -> Any:
        if name in _NOT_REMOTE:
            raise AttributeError(name)
        return self._venvd_run(self._venvd_scope.getattr(self, name))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            raise AttributeError(f"{name} is the proxy's own")
        self._venvd_run(self._venvd_scope.setattr(self, name, value))

    def __delattr__(self, name: str) -> None:
        self._venvd_evaluate(operators.DELETE_ATTRIBUTE, self, name)

    def __dir__(self) -> list[str]:
        return list(self._venvd_evaluate(operators.NAMES, self))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._venvd_run(self._venvd_scope.call(self, "__call__", args, kwargs))

    # comparison and conversion

    def __eq__(self, other: object) -> Any:
        return self._venvd_evaluate(operators.EQUAL, self, other)

    def __ne__(self, other: object) -> Any:
        return self._venvd_evaluate(operators.NOT_EQUAL, self, other)

    def __hash__(self) -> int:
        return int(self._venvd_evaluate(operators.HASH, self))

    def __bool__(self) -> bool:
        return bool(self._venvd_evaluate(operators.TRUTH, self))

    def __int__(self) -> int:
        return int(self._venvd_evaluate(operators.INTEGER, self))

    def __float__(self) -> float:
        return float(self._venvd_evaluate(operators.REAL, self))

    def __complex__(self) -> complex:
        return complex(self._venvd_evaluate(operators.COMPLEX, self))

    def __index__(self) -> int:
        return int(self._venvd_evaluate(operators.INDEX, self))

    def __bytes__(self) -> bytes:
        return bytes(self._venvd_evaluate(operators.BYTES, self))

    def __str__(self) -> str:
        return str(self._venvd_evaluate(operators.TEXT, self))

    def __repr__(self) -> str:
        try:
            return str(self._venvd_evaluate(operators.REPR, self))
        except VenvdError as error:
            # Debuggers and logs call this at any time: a lost session must not break them.
            return f"<{self._venvd_type} in a session that does not answer: {error.message}>"

    def __format__(self, spec: str) -> str:
        return str(self._venvd_evaluate(operators.FORMAT, self, spec))

    def __deepcopy__(self, memo: Any) -> Any:
        return self._venvd_evaluate(operators.DEEP_COPY, self)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a proxy cannot be pickled: its object lives in a session")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if copy is False:
            raise ValueError("an array of a session cannot be had without a copy")
        array = array_of(*self._venvd_scope.backend.fetch_array(self._venvd_scope.get_array(self)))  # type: ignore[attr-defined]
        return array if dtype is None else array.astype(dtype, copy=False)

    # containers

    def __len__(self) -> int:
        return int(self._venvd_evaluate(operators.LENGTH, self))

    def __contains__(self, item: Any) -> bool:
        return bool(self._venvd_evaluate(operators.CONTAINS, self, item))

    def __setitem__(self, index: Any, value: Any) -> None:
        place, values = subscript(index)
        self._venvd_evaluate(f"{place} = _{len(values) + 1}", self, *values, value)

    def __delitem__(self, index: Any) -> None:
        place, values = subscript(index)
        self._venvd_evaluate(f"del {place}", self, *values)

    def __iter__(self) -> Iterator[Any]:
        # Not a generator itself: iter() of what cannot be iterated over must raise at once.
        return self._venvd_items(drive(iteration(self._venvd_scope, self, type_name), self._venvd_run))

    def _venvd_items(self, items: operators.Iteration) -> Iterator[Any]:
        while not items.done:
            yield from drive(items.batch(), self._venvd_run)

    def __reversed__(self) -> Iterator[Any]:
        return iter(self._venvd_evaluate(operators.REVERSED, self))

    def __next__(self) -> Any:
        try:
            return self._venvd_evaluate(operators.NEXT, self)
        except UserError as error:
            if error.error_type == "StopIteration":
                raise StopIteration from None
            raise

    # context managers

    def __enter__(self) -> Any:
        return self._venvd_evaluate(operators.ENTER, self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        expression, values = exit_call(error)
        return bool(self._venvd_evaluate(expression, self, *values))


def exit_call(error: BaseException | None) -> tuple[str, list[Any]]:
    """What ends a remote `with`: the remote side sees the builtin exception that `error` is, or a plain one."""
    if error is None:
        return operators.EXIT, []
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins" and kind is not object]
    simple = [name for name in names if not name.startswith("Unicode") and "Group" not in name]
    return operators.EXIT_WITH.format(simple[0]), [str(error)]


def type_name(proxy: Any) -> str:
    """The name of the type of the object that a proxy stands for; nothing is sent."""
    return str(proxy._venvd_type)
