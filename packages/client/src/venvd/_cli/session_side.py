"""The questions of `venvd shell` to a session.

This text runs in the session: it needs only CPython 3.9 and the standard library.

It runs in a namespace of its own. The search for completions runs no code of an object except its `__dir__`: a property
or another descriptor ends the search.
"""

import codeop
import inspect
import keyword
import pydoc
import re
import sys
import warnings
from typing import Any

_LAST_NAME = re.compile(r"((?:[^\W\d]\w*\.)*)(\w*)$")
_MOST = 500


def judge(source: str) -> str:
    """Return how Python's own prompt reads the text: `complete`, `incomplete` or `wrong`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "incomplete" if codeop.compile_command(source, "<stdin>", "single") is None else "complete"
        except SyntaxError as error:
            if "multiple statements" not in str(error):
                return "wrong"
        except (ValueError, OverflowError):
            return "wrong"
        try:
            return "incomplete" if codeop.compile_command(source, "<stdin>", "exec") is None else "complete"
        except (SyntaxError, ValueError, OverflowError):
            return "wrong"


def complete(line: str) -> list[str]:
    """Return the names that may stand for the last name of the line, without what stands before its last dot."""
    match = _LAST_NAME.search(line)
    if match is None or line[: match.start()].endswith("."):
        return []  # an attribute of an expression: finding it would run code
    path, prefix = match.group(1), match.group(2)
    namespace = sys.modules["__main__"].__dict__
    builtin_names = vars(sys.modules["builtins"])
    if not path:
        names = {*namespace, *builtin_names, *keyword.kwlist}
    else:
        first, *rest = path[:-1].split(".")
        if first not in namespace and first not in builtin_names:
            return []
        value = namespace[first] if first in namespace else builtin_names[first]
        for name in rest:
            try:
                value = _read(value, name)
            except AttributeError:
                return []
        names = set(map(str, dir(value)))
    hidden = "__" if prefix == "_" else "_"
    shown = (name for name in names if name.startswith(prefix) and (prefix[1:] or not name.startswith(hidden)))
    return sorted(shown, key=str.lower)[:_MOST]


def describe(expression: str) -> str:
    """Return the documentation of an object, as `help` shows it."""
    value = eval(expression, sys.modules["__main__"].__dict__)  # noqa: S307 - the user asks for this object
    return pydoc.plain(pydoc.render_doc(value, "%s"))


def _read(value: Any, name: str) -> Any:
    """Read an attribute without running code of its class. Raises `AttributeError` where that takes code."""
    attribute = inspect.getattr_static(value, name)
    kind = type(attribute)
    if isinstance(attribute, (staticmethod, classmethod)):
        return attribute.__func__
    if inspect.isfunction(attribute) or inspect.isbuiltin(attribute) or inspect.ismethoddescriptor(attribute):
        return attribute
    if kind.__module__ == "builtins" and kind.__name__ in {"member_descriptor", "getset_descriptor"}:
        return getattr(value, name)  # slots and fields of C types: reading them runs no code of the user
    if inspect.getattr_static(kind, "__get__", None) is not None:
        raise AttributeError(name)
    return attribute
