"""How much one reply of a session may hold."""

from __future__ import annotations

from venvd_contract.commands import Limits

_MIB = 1 << 20
_UNLIMITED_RESULT = 128 * _MIB
_UNLIMITED_OUTPUT = 32 * _MIB
_LONGEST_ESCAPE = 6


def largest_reply(limits: Limits) -> int:
    """Bytes that one reply of a session with these limits can have; more than that comes from a misbehaving one."""
    result = _UNLIMITED_RESULT if limits.resultBytes is None else limits.resultBytes
    output = _UNLIMITED_OUTPUT if limits.outputBytes is None else limits.outputBytes
    return _MIB + 2 * result + _LONGEST_ESCAPE * output
