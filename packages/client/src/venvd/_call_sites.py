"""Call sites: how the byte code uses an attribute that it looks up, and whether it asks for a class."""

from __future__ import annotations

import dis
import sys
from functools import lru_cache
from itertools import takewhile
from types import CodeType, FrameType

_EXTENDED_ARG = dis.opmap["EXTENDED_ARG"]
_LOAD = dis.opmap["LOAD_ATTR" if sys.version_info >= (3, 12) else "LOAD_METHOD"]
_QUESTION = 2
"""The number of arguments of `isinstance`."""
_FLAG_BITS = 1 if sys.version_info >= (3, 12) else 0
"""From Python 3.12 on, LOAD_ATTR loads methods too, and the lowest bit of its argument marks them."""


def is_method_call(frame: FrameType, name: str) -> bool:
    """Return whether `frame` looks `name` up to call it at once, as in `x.name(…)`.

    `getattr`, `hasattr` and a lookup whose result is kept are not method calls. A call with `*args` or `**kwargs` has
    no mark in the byte code either.
    """
    place = frame.f_lasti
    code = frame.f_code
    instructions = code.co_code
    if instructions[place] != _LOAD:
        return False
    argument = instructions[place + 1]
    if _FLAG_BITS and not argument & 1:
        return False
    shift = 8
    while place >= 2 and instructions[place - 2] == _EXTENDED_ARG:
        place -= 2
        argument |= instructions[place + 1] << shift
        shift += 8
    # While the frame is at its own method call, an extension can look another name up.
    return code.co_names[argument >> _FLAG_BITS] == name


def asks_for_class(frame: FrameType) -> bool:
    """Return whether `frame` itself evaluates `isinstance(x, …)`, `x.__class__` or a class of a `match` statement.

    The result is False if `frame` has called a compiled function that asks.
    """
    return _asks_for_class(frame.f_code, frame.f_lasti)


@lru_cache(1024)
def _asks_for_class(code: CodeType, place: int) -> bool:
    *before, last = takewhile(lambda one: one.offset <= place, dis.get_instructions(code))
    if last.opname in {"LOAD_ATTR", "MATCH_CLASS"}:
        return last.opname == "MATCH_CLASS" or last.argval == "__class__"
    if last.opname != "CALL" or last.arg != _QUESTION:
        return False
    pushed = 0
    for one in reversed(before):
        if one.opname == "PRECALL":
            continue
        if one.argval == "isinstance" and pushed in {_QUESTION, _QUESTION + 1}:  # with or without PUSH_NULL
            return True
        pushed += dis.stack_effect(one.opcode, one.arg, jump=False)
        if pushed > _QUESTION + 1:
            return False
    return False
