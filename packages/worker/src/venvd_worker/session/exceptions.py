"""Describes more of an exception for clients than its type, message and traceback."""

from __future__ import annotations

from typing import Any, Iterator, Optional, Tuple

from venvd_contract.exceptions import LONGEST_TEXT, MOST_CAUSES, MOST_TEXTS, Fields, is_argument, shorten
from venvd_worker.session import tracebacks


def describe(error: BaseException) -> Optional[Fields]:
    """Return the fields of `venvd_contract.exceptions`, or None if code of the user's classes fails meanwhile."""
    try:
        return shorten(_describe(error, MOST_CAUSES))
    except Exception:  # noqa: BLE001 - the user's classes take part in this
        return None


def _describe(error: BaseException, causes: int) -> Fields:
    kind, *bases = type(error).__mro__
    fields: Fields = {"module": _text_of(getattr(kind, "__module__", None)) or "builtins"}
    fields["bases"] = [_name_class(base) for base in bases if base not in (BaseException, object)][:MOST_TEXTS]
    args = error.args
    if len(args) <= MOST_TEXTS and all(is_argument(arg) for arg in args):
        fields["args"] = [tracebacks.printable(arg) if type(arg) is str else arg for arg in args]
    for member, value in _list_members(error):
        if type(value) in (int, str) and is_argument(value):
            fields[member] = tracebacks.printable(value) if type(value) is str else value
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, (list, tuple)):
        texts = [note for note in map(_text_of, notes[:MOST_TEXTS]) if note]
        if texts:
            fields["notes"] = texts
    name, inner = ("cause", error.__cause__) if error.__cause__ is not None else ("context", error.__context__)
    if inner is not None and causes and (name == "cause" or not error.__suppress_context__):
        message = tracebacks.message(inner)[:LONGEST_TEXT]
        fields[name] = {"errorType": tracebacks.type_name(inner), "message": message, **_describe(inner, causes - 1)}
    return fields


def _list_members(error: BaseException) -> Iterator[Tuple[str, Any]]:
    """Yield the members that some builtin exceptions have beside their arguments."""
    if isinstance(error, OSError):
        yield from (("errno", error.errno), ("filename", error.filename))
    if isinstance(error, (AttributeError, NameError, ImportError)):
        yield "name", getattr(error, "name", None)  # in CPython 3.9 only ImportError has it


def _name_class(kind: Any) -> str:
    name, module = tracebacks.class_name(kind), getattr(kind, "__module__", None)
    return (name if module == "builtins" or type(module) is not str else module + "." + name)[:LONGEST_TEXT]


def _text_of(value: Any) -> Optional[str]:
    return tracebacks.printable(value)[:LONGEST_TEXT] if type(value) is str else None
