"""The description of an exception of user code, beyond its type, message and traceback.

==========  =========================================================================================================
`module`    where its class is defined
`bases`     the classes that it derives from below `BaseException`, nearest first: builtin ones by name alone, others as
            `module.name`
`args`      its arguments; absent if one of them is not a number, text, boolean or null, or is too long
`errno`     of an `OSError`
`filename`  of an `OSError`, if it is text
`name`      the missing name of an `AttributeError`, `NameError` or `ImportError`
`notes`     the notes from `add_note`
`cause`     the exception after `raise … from`, with these fields, `errorType` and `message`
`context`   the exception during whose handling it was raised, in the same form; absent with a cause or `from None`
==========  =========================================================================================================
"""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, Optional

LONGEST_TEXT = 1024
"""Characters of one text."""
MOST_TEXTS = 32
"""Texts in a list."""
MOST_CAUSES = 4
"""Causes and contexts in a chain."""
LARGEST = 16 * 1024
"""Bytes of all fields as JSON."""
LONGEST_OUTPUT = 32 * 1024
"""Characters of a stream in an error; longer output loses its beginning."""
_LEAST_NEEDED = ("context", "cause", "notes", "args", "filename", "bases", "module", "name", "errno")
_LARGEST_NUMBER = (1 << 63) - 1

Fields = Dict[str, Any]


def is_argument(value: Any) -> bool:
    """Return whether `args` may contain a value: JSON can represent it exactly, and each language can read it."""
    kind = type(value)
    if kind is int:
        return bool(-_LARGEST_NUMBER <= value <= _LARGEST_NUMBER)
    if kind is float:
        return bool(value - value == 0)  # neither infinite nor not a number
    return _is_text(value) if kind is str else value is None or kind is bool


def shorten(fields: Fields, largest: int = LARGEST) -> Fields:
    """Leave out the least important fields until the rest has at most `largest` bytes as JSON."""
    kept = dict(fields)
    for name in _LEAST_NEEDED:
        if len(json.dumps(kept)) <= largest:
            break
        kept.pop(name, None)
    return kept


def read(given: Any, causes: int = MOST_CAUSES) -> Optional[Fields]:
    """Return the fields that have the right type and size, or None if there are none.

    The fields may come from a hostile peer, so this function drops wrong ones.
    """
    if not isinstance(given, dict):
        return None
    fields = {name: given[name] for name, fits in _TYPES.items() if fits(given.get(name))}
    for name in ("cause", "context"):
        inner = read(given.get(name), causes - 1) if causes else None
        if inner is not None:
            fields[name] = inner
    return shorten(fields) or None


def read_output(given: Any) -> Optional[Fields]:
    """Return the output of an `exec` that ended early, or None if a field has the wrong type."""
    if not isinstance(given, dict):
        return None
    texts = given.get("stdout"), given.get("stderr")
    if not all(isinstance(text, str) and len(text) <= LONGEST_OUTPUT for text in texts):
        return None
    return {"stdout": texts[0], "stderr": texts[1], "truncated": given.get("truncated") is True}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def _is_list(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) <= MOST_TEXTS and all(map(fits, value))


def _are_texts(value: Any) -> bool:
    return _is_list(value, _is_text)


def _are_arguments(value: Any) -> bool:
    return _is_list(value, is_argument)


def _is_number(value: Any) -> bool:
    return type(value) is int and is_argument(value)


_TYPES: Dict[str, Callable[[Any], bool]] = {
    "errorType": _is_text,
    "message": _is_text,
    "module": _is_text,
    "bases": _are_texts,
    "args": _are_arguments,
    "errno": _is_number,
    "filename": _is_text,
    "name": _is_text,
    "notes": _are_texts,
}
