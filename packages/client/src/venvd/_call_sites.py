"""Call sites: what the compiler says of an attribute that is looked up."""

from __future__ import annotations

import dis
import sys
from types import FrameType

_EXTENDED_ARG = dis.opmap["EXTENDED_ARG"]
_LOAD = dis.opmap["LOAD_ATTR" if sys.version_info >= (3, 12) else "LOAD_METHOD"]
_FLAG_BITS = 1 if sys.version_info >= (3, 12) else 0
"""From Python 3.12 on, LOAD_ATTR loads methods too, and the lowest bit of its argument marks them."""


def is_method_call(frame: FrameType, name: str) -> bool:
    """Return whether `frame` looks `name` up to call it at once, as in `x.name(…)`.

    `getattr`, `hasattr` and a lookup whose result is kept are no method calls. A call with `*args` or `**kwargs` has no
    mark in the byte code either.
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
    # An extension can look another name up while the frame is at its own method call.
    return code.co_names[argument >> _FLAG_BITS] == name
