"""Functions that `venvd shell` runs in the session: they judge source, complete names and describe objects.

The shell sends the text of this file to the session, so the file needs only CPython 3.9 and the standard library. The
session runs it in a fresh namespace, not in that of the user.

The search for completions reads attributes without calling properties: a property or a similar descriptor ends it. It
calls the `__dir__` of the last object.
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
    """Judge source as Python's own prompt does. Return `complete`, `incomplete` or `wrong`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "incomplete" if codeop.compile_command(source, "<stdin>", "single") is None else "complete"
        except SyntaxError as error:
            if "multiple statements" not in str(error):
                return "wrong"
        except (ValueError, OverflowError):
            return "wrong"
        try:  # the user pasted several statements
            return "incomplete" if codeop.compile_command(source, "<stdin>", "exec") is None else "complete"
        except (SyntaxError, ValueError, OverflowError):
            return "wrong"


def complete(line: str) -> list[str]:
    """Return the names that complete the last name of the line. For `a.b`, one may be `bc`, not `a.bc`."""
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
    # `_` offers names that begin with one underscore; only `__` offers those that begin with two
    hidden = "__" if prefix == "_" else "_"
    shown = (name for name in names if name.startswith(prefix) and (prefix[1:] or not name.startswith(hidden)))
    return sorted(shown, key=str.lower)[:_MOST]


def describe(expression: str) -> str:
    """Return the documentation of an object, as `help` shows it."""
    value = eval(expression, sys.modules["__main__"].__dict__)  # noqa: S307 - the user asks for this object
    return pydoc.plain(pydoc.render_doc(value, "%s"))


def _read(value: Any, name: str) -> Any:
    """Read an attribute without calling a descriptor of the user. Raises `AttributeError` if only a call gives it."""
    attribute = inspect.getattr_static(value, name)
    kind = type(attribute)
    if isinstance(attribute, (staticmethod, classmethod)):
        return attribute.__func__
    if inspect.isfunction(attribute) or inspect.isbuiltin(attribute) or inspect.ismethoddescriptor(attribute):
        return attribute
    if kind.__module__ == "builtins" and kind.__name__ in {"member_descriptor", "getset_descriptor"}:
        return getattr(value, name)  # slots and fields of C types: their descriptors run no code of the user
    if inspect.getattr_static(kind, "__get__", None) is not None:
        raise AttributeError(name)
    return attribute
