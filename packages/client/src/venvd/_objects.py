"""Sends local objects that are not plain data as values of a request.

The client sends a class or function that the session can import as its name. It sends an array or a table as an upload
before the call. It sends an instance as the call that makes a copy of it, which `copy` and `pickle` use too.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from types import FunctionType, ModuleType
from typing import Any

from venvd._functions import NoSourceError, make_source
from venvd_contract.values import NotPlain

_DEEPEST = 30
"""The deepest nesting. Deeper objects probably contain themselves, or are not meant as arguments."""
_MAIN = {"$import": "__main__:__dict__"}


class NoFormError(NotPlain):
    """The client cannot send the value. The message says why, and what to do."""


@dataclass(slots=True)
class Upload:
    """An array or a table that the client sends before the call that uses it.

    Attributes:
        value: the array or table.
        into: None for an array, else the type that a table gets in the session.
        place: the JSON of the array or table in the call. After the upload, it becomes a handle.
    """

    value: Any
    into: str | None
    place: dict[str, Any]


class ObjectEncoder:
    """Encodes objects. Collects what the client must send before the call in `uploads`.

    Args:
        encode: encodes the values inside of an object.
    """

    def __init__(self, encode: Callable[[Any], Any]) -> None:
        self.uploads: list[Upload] = []
        self._encode_value = encode
        self._depth = 0

    def encode(self, value: Any) -> Any:
        """Return the JSON form of an object.

        Raises:
            NoFormError: the object has no JSON form.
        """
        if self._depth >= _DEEPEST:
            raise NoFormError(
                f"an object of type {type(value).__name__} holds objects more than {_DEEPEST} levels deep"
            )
        self._depth += 1
        try:
            return self._encode(value)
        finally:
            self._depth -= 1

    def _encode(self, value: Any) -> Any:
        kind = type(value)
        if hasattr(kind, "_venvd_refuse"):
            raise NoFormError(value._venvd_refuse("an argument"))
        if kind is str:  # a text with lone surrogates
            return self._call("codecs:decode", value.encode("utf-8", "surrogatepass"), "utf-8", "surrogatepass")
        if kind is memoryview:
            return self._call("builtins:memoryview", bytes(value))
        if isinstance(value, PurePath):  # its module has another name on other versions of Python
            return self._call(f"pathlib:{kind.__name__}" if kind.__module__.startswith("pathlib") else kind, str(value))
        if isinstance(value, ModuleType):
            return {"$import": value.__name__ + ":"}
        form = self._encode_data(value)
        if form is None:
            form = self._encode_named(value)
        return self._encode_reduced(value) if form is None else form

    def _call(self, function: Any, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        named = {"$import": function} if isinstance(function, str) else self._encode_value(function)
        call = [named, [self._encode_value(value) for value in args]]
        if kwargs:
            call.append({name: self._encode_value(value) for name, value in kwargs.items()})
        return {"$call": call}

    def _upload(self, value: Any, into: str | None) -> dict[str, Any]:
        place: dict[str, Any] = {}
        self.uploads.append(Upload(value, into, place))
        return place

    # ---- numpy and pandas, whose own way of copying names private functions

    def _encode_data(self, value: Any) -> Any:
        """Return the form of an array, a table or a value of their kind, or None for anything else."""
        package = "" if isinstance(value, type) else str(type(value).__module__).partition(".")[0]
        if package == "numpy":
            return self._encode_numpy(value)
        if package == "pandas":
            return self._encode_pandas(value)
        if package in {"pyarrow", "polars"} and type(value).__name__ in {"Table", "RecordBatch", "DataFrame"}:
            return self._upload(value, "polars" if package == "polars" else "table")
        return None

    def _encode_numpy(self, value: Any) -> Any:
        numpy = sys.modules["numpy"]
        if isinstance(value, numpy.ndarray):
            return self._upload(value, None)
        if isinstance(value, numpy.dtype):
            return self._call("numpy:dtype", value.str if value.names is None else value.descr)
        if isinstance(value, numpy.datetime64 | numpy.timedelta64):
            unit, count = numpy.datetime_data(value.dtype)
            step = [] if unit == "generic" else [f"{count}{unit}"]
            number = "NaT" if numpy.isnat(value) else int(value.view("i8"))
            return self._call(f"numpy:{type(value).__name__}", number, *step)
        name = str(getattr(value, "__name__", ""))
        if isinstance(value, numpy.ufunc) and getattr(numpy, name, None) is value:
            return {"$import": f"numpy:{name}"}
        return None

    def _encode_pandas(self, value: Any) -> Any:
        pandas = sys.modules["pandas"]
        if isinstance(value, pandas.DataFrame):
            return self._upload(value, "pandas")
        if isinstance(value, pandas.Series):
            frame = self._upload(value.to_frame("values"), "pandas")
            column = {"$call": [{"$import": "operator:getitem"}, [frame, "values"]]}
            return {"$call": [self._call("operator:methodcaller", "rename", value.name), [column]]}
        if isinstance(value, pandas.Index) and type(value) is not pandas.RangeIndex:
            frame = self._upload(value.to_frame(index=False), "pandas")
            if isinstance(value, pandas.MultiIndex):
                return {"$call": [{"$import": "pandas:MultiIndex.from_frame"}, [frame], self._names(list(value.names))]}
            series = {"$call": [self._call("operator:methodcaller", "squeeze", "columns"), [frame]]}
            index = {"$call": [{"$import": "pandas:Index"}, [series]]}
            return {"$call": [self._call("operator:methodcaller", "rename", value.name), [index]]}
        if value is pandas.NaT or value is pandas.NA:
            return {"$import": "pandas:NaT" if value is pandas.NaT else "pandas:NA"}
        return self._encode_pandas_time(value, pandas)

    def _encode_pandas_time(self, value: Any, pandas: Any) -> Any:
        if isinstance(value, pandas.Timestamp):
            zone = None if value.tz is None else str(value.tz)
            return self._call("pandas:Timestamp", value.value, unit="ns", tz=zone)
        if isinstance(value, pandas.Timedelta):
            return self._call("pandas:Timedelta", value.value, unit="ns")
        return None

    def _names(self, names: list[Any]) -> dict[str, Any]:
        return {"names": self._encode_value(names)}

    # ---- everything else

    def _encode_named(self, value: Any) -> Any:
        """Return the form of a class or function, or None for anything else."""
        if not isinstance(value, type) and not callable(value):
            return None
        path = find_path(value)
        if isinstance(value, FunctionType) and (path is None or not _is_installed(value.__module__)):
            return self._encode_source(value)
        if path is not None:
            return {"$import": path}
        if value is type(None):
            return self._call("builtins:type", None)
        if isinstance(value, type):
            raise NoFormError(_describe_local_class(value))
        return None

    def _encode_source(self, function: FunctionType) -> Any:
        try:
            source, values = make_source(function)
        except NoSourceError as error:
            raise NoFormError(
                f"the function {function.__qualname__} cannot be sent: {error}; define it in the session with exec(), "
                "and pass eval(its name)"
            ) from None
        maker = {"$call": [{"$import": "builtins:eval"}, [source, _MAIN]]}
        return {"$call": [maker, [self._encode_value(value) for value in values.values()]]}

    def _encode_reduced(self, value: Any) -> Any:
        kind = type(value)
        try:
            reduced = value.__reduce_ex__(4)
        except Exception as error:  # noqa: BLE001 - the user's class takes part in this
            raise NoFormError(
                f"a {kind.__name__} cannot be sent: {error}; send plain data, or make it in the session"
            ) from None
        if isinstance(reduced, str):
            return {"$import": f"{getattr(value, '__module__', None) or kind.__module__}:{reduced}"}
        function, args, state, items, pairs = (*reduced, None, None, None)[:5]
        if state is None and items is None and pairs is None:
            return self._call(function, *args)
        parts = [None, None, function, args, state, items and list(items), pairs and list(pairs)]
        return self._call("copy:_reconstruct", *parts)


def find_path(value: Any) -> str | None:
    """Return `module:name` of a class or function in the outermost package that shows it, or None if none does."""
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    module = getattr(value, "__module__", None) or (builtins.__name__ if isinstance(name, str) else None)
    if not isinstance(name, str) or not isinstance(module, str) or module == "__main__" or "<" in name:
        return None
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        owner = ".".join(parts[:end])
        importable: Any = sys.modules.get(owner)
        for part in name.split("."):
            importable = getattr(importable, part, None)
        if importable is value:
            return f"{owner}:{name}"
    return None


def _is_installed(module: str) -> bool:
    """Return whether a module is part of Python or of an installed package, rather than of the program."""
    if module.partition(".")[0] in sys.stdlib_module_names:
        return True
    path = str(getattr(sys.modules.get(module), "__file__", None) or "")
    return "/site-packages/" in path or "/dist-packages/" in path


def _describe_local_class(kind: type) -> str:
    return (
        f"the class {kind.__qualname__} is defined in this program: define it in the session with exec(), "
        "or send plain data"
    )
