"""Proxies of objects that live in a session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from inspect import Signature
from types import TracebackType
from typing import Any, NoReturn

from venvd import _operators
from venvd._array_functions import ArrayFunctions
from venvd._arrays import array_of
from venvd._call_sites import is_method_call
from venvd._calls import SessionCalls
from venvd._operators import InPlaceOperators, Operators, subscript
from venvd._remote_classes import UNKNOWN, find_local_class, is_class_question, show_remote_doc
from venvd._signatures import make_signature
from venvd._sync.iteration import Iteration
from venvd._sync.uploads import run_uploading
from venvd._tables import table_of
from venvd._visible import visible
from venvd.errors import UserError, VenvdError

_OWN = frozenset({"_venvd_calls", "_venvd_class", "_venvd_id", "_venvd_type"})
# numpy looks for these before it reads an object as a sequence. A proxy as the answer would mislead it.
_NOT_REMOTE = frozenset({"__array_interface__", "__array_struct__", "__array_priority__"})
_TABLES = frozenset({"DataFrame", "Series", "Table", "RecordBatch"})
"""Names of the types that `get_table` fetches."""


def _get_doc(proxy: Any) -> Any:
    return proxy._venvd_run(proxy._venvd_calls.getattr(proxy, "__doc__"))


@show_remote_doc(_get_doc)
class RemoteObject(Operators, InPlaceOperators, ArrayFunctions):
    """A proxy of an object in a session.

    Attributes, method calls, operators, indexing, iteration, `with`, `len`, `str` and the like go to the session. Each
    costs one call. Results that are plain data become values, and all others become proxies. Attributes whose names
    begin with `_venvd_` belong to the proxy itself. The client releases the handle after the proxy has died.

    In the program's own code, `isinstance(proxy, cls)` is true if it is true for the object. The first question costs a
    call. Code of libraries sees a proxy, because it may reach into the memory of what it takes for its own object.
    """

    __slots__ = ("__weakref__", *_OWN)

    _venvd_calls: SessionCalls
    _venvd_id: str
    _venvd_type: str
    _venvd_class: type | None

    def __init__(self, calls: SessionCalls, handle: str, type_name: str) -> None:
        object.__setattr__(self, "_venvd_calls", calls)
        object.__setattr__(self, "_venvd_id", handle)
        object.__setattr__(self, "_venvd_type", type_name)
        object.__setattr__(self, "_venvd_class", UNKNOWN)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return self._venvd_find_class() or type(self) if is_class_question(sys._getframe(1)) else type(self)

    def _venvd_find_class(self) -> type | None:
        """Return this program's class for the object's class or the nearest of its bases."""
        if self._venvd_class is UNKNOWN:
            local_class = find_local_class(self._venvd_evaluate(_operators.CLASSES, self))
            object.__setattr__(self, "_venvd_class", local_class)
        return self._venvd_class

    def _venvd_run(self, call: Any) -> Any:
        backend: Any = self._venvd_calls.backend
        if call.uploads:
            return run_uploading(self._venvd_calls, backend._transport, call)
        return backend._run_call(call)

    def _venvd_evaluate(self, expression: str, *values: Any) -> Any:
        return self._venvd_run(self._venvd_calls.eval(expression, _operators.name_operands(values)))

    def _venvd_in_place(self, expression: str, other: Any) -> Any:
        result = self._venvd_evaluate(expression, self, other)
        return self if result is None else result

    def _venvd_text(self, expression: str, *values: Any) -> str:
        text = self._venvd_evaluate(expression, self, *values)
        if type(text) is str:
            return text
        # Text with lone surrogates has no JSON form and stays in the session.
        data: bytes = self._venvd_evaluate(_operators.SURROGATES, text)
        return data.decode("utf-8", "surrogatepass")

    def __instancecheck__(self, instance: object) -> bool:
        """Return whether an object is an instance of this class, for `isinstance(x, proxy)`."""
        return bool(self._venvd_evaluate(_operators.HAS_INSTANCE, self, instance))

    def __subclasscheck__(self, subclass: type) -> bool:
        """Return whether a class is a subclass of this class, for `issubclass(cls, proxy)`."""
        return bool(self._venvd_evaluate(_operators.HAS_SUBCLASS, self, subclass))

    # attributes and calls

    def __getattr__(self, name: str) -> Any:
        if name[:2] == "__":
            if name in _NOT_REMOTE:
                raise AttributeError(name)
            if name == "__arrow_c_stream__":
                return self._venvd_arrow_stream()
            if name == "__signature__":
                return self._venvd_get_signature()
        if is_method_call(sys._getframe(1), name):
            return partial(self._venvd_call_method, name)
        return self._venvd_run(self._venvd_calls.getattr(self, name))

    def _venvd_call_method(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        return self._venvd_run(self._venvd_calls.call(self, name, args, kwargs))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            raise AttributeError(f"{name} is the proxy's own")
        self._venvd_run(self._venvd_calls.setattr(self, name, value))

    def __delattr__(self, name: str) -> None:
        self._venvd_evaluate(_operators.DELETE_ATTRIBUTE, self, name)

    def __dir__(self) -> list[str]:
        return list(self._venvd_evaluate(_operators.NAMES, self))

    # comparison and conversion

    def __eq__(self, other: object) -> Any:
        return self._venvd_evaluate(_operators.EQUAL, self, other)

    def __ne__(self, other: object) -> Any:
        return self._venvd_evaluate(_operators.NOT_EQUAL, self, other)

    def __hash__(self) -> int:
        return int(self._venvd_evaluate(_operators.HASH, self))

    def __bool__(self) -> bool:
        return bool(self._venvd_evaluate(_operators.TRUTH, self))

    def __int__(self) -> int:
        return int(self._venvd_evaluate(_operators.INTEGER, self))

    def __float__(self) -> float:
        return float(self._venvd_evaluate(_operators.REAL, self))

    def __complex__(self) -> complex:
        return complex(self._venvd_evaluate(_operators.COMPLEX, self))

    def __index__(self) -> int:
        return int(self._venvd_evaluate(_operators.INDEX, self))

    def __bytes__(self) -> bytes:
        return bytes(self._venvd_evaluate(_operators.BYTES, self))

    def __str__(self) -> str:
        return self._venvd_text(_operators.TEXT)

    def __repr__(self) -> str:
        try:
            return visible(self._venvd_text(_operators.REPR))
        except VenvdError as error:
            # Debuggers and logs call this at any time. A lost session must not break them.
            return f"<{self._venvd_type} in a session that does not answer: {error.message}>"

    def __format__(self, spec: str) -> str:
        return self._venvd_text(_operators.FORMAT, spec)

    def __deepcopy__(self, memo: Any) -> Any:
        return self._venvd_evaluate(_operators.DEEP_COPY, self)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a proxy cannot be pickled: its object lives in a session")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if copy is False:
            raise ValueError("an array of a session cannot be fetched without a copy")
        if self._venvd_type == "DataFrame" and sys._getframe(1).f_globals.get("__name__") == "pandas.core.frame":
            raise TypeError(
                "pandas.DataFrame() reads a proxy as a bare array, without its index, names and types: "
                "write b.get_table(df).to_pandas()"
            )
        array = array_of(*self._venvd_calls.backend._transport.get_array(self._venvd_calls.get_array(self)))  # type: ignore[attr-defined]
        return array if dtype is None else array.astype(dtype, copy=False)

    def _venvd_arrow_stream(self) -> Any:
        """Return the method of Arrow's C interface. Only a table has it."""
        if self._venvd_type not in _TABLES:
            raise AttributeError("__arrow_c_stream__")
        calls: Any = self._venvd_calls

        def stream(requested_schema: Any = None) -> Any:
            data = calls.backend._transport.get_array(calls.get_table(self))[1]
            return table_of(data).__arrow_c_stream__(requested_schema)

        return stream

    def _venvd_get_signature(self) -> Signature:
        """Return what `inspect.signature` shows. Only a callable object has it."""
        raise AttributeError("__signature__")

    # containers

    def __len__(self) -> int:
        return int(self._venvd_evaluate(_operators.LENGTH, self))

    def __contains__(self, item: Any) -> bool:
        return bool(self._venvd_evaluate(_operators.CONTAINS, self, item))

    def __setitem__(self, index: Any, value: Any) -> None:
        place, values = subscript(index)
        self._venvd_evaluate(f"{place} = _{len(values) + 1}", self, *values, value)

    def __delitem__(self, index: Any) -> None:
        place, values = subscript(index)
        self._venvd_evaluate(f"del {place}", self, *values)

    def __iter__(self) -> Iterator[Any]:
        # This is not a generator: iter() of an object that is not iterable must raise at once.
        iteration = Iteration(self, self._venvd_run)
        iteration.begin()
        return self._venvd_items(iteration)

    def _venvd_items(self, iteration: Iteration) -> Iterator[Any]:
        while not iteration.done:
            yield from iteration.next_batch()

    def __reversed__(self) -> Iterator[Any]:
        return iter(self._venvd_evaluate(_operators.REVERSED, self))

    def __next__(self) -> Any:
        try:
            return self._venvd_evaluate(_operators.NEXT, self)
        except UserError as error:
            if error.error_type == "StopIteration":
                raise StopIteration from None
            raise

    # context managers

    def __enter__(self) -> Any:
        return self._venvd_evaluate(_operators.ENTER, self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        expression, values = make_exit_call(error)
        return bool(self._venvd_evaluate(expression, self, *values))


@show_remote_doc(_get_doc)
class RemoteCallable(RemoteObject):
    """A proxy of a function, a class or another callable object."""

    __slots__ = ()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._venvd_run(self._venvd_calls.call(self, "__call__", args, kwargs))

    def _venvd_get_signature(self) -> Signature:
        return make_signature(self._venvd_run(self._venvd_calls.signature(self)))


def make_exit_call(error: BaseException | None) -> tuple[str, list[Any]]:
    """Return the expression that ends a remote `with`, and its operands.

    The remote side sees the builtin exception that `error` is or derives from.
    """
    if error is None:
        return _operators.EXIT, []
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins" and kind is not object]
    simple = [name for name in names if not name.startswith("Unicode") and "Group" not in name]
    return _operators.EXIT_WITH.format(simple[0]), [str(error)]


def type_name(proxy: Any) -> str:
    """Return the type name of a proxy's object. This sends nothing."""
    return str(proxy._venvd_type)


def handle_id(proxy: Any) -> str:
    """Return the ID of a proxy's handle. `proxy()` of its session makes another proxy of it. This sends nothing."""
    return str(proxy._venvd_id)
