"""Hints for errors that come from the place where user code runs, not from the code itself."""

from __future__ import annotations

import errno
import socket
import sys
from typing import Iterator, Optional

from venvd_contract.package_names import find_package

_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EAFNOSUPPORT})
"""The error numbers of calls without a network, and of the filter of system calls for network sockets."""
_DEEPEST = 10


def find_hint(error: BaseException) -> Optional[str]:
    """Return a sentence about a module that the venv lacks, or a network that user code does not have; else None."""
    if isinstance(error, ModuleNotFoundError):
        return _describe_missing(error.name)
    if any(_is_unreachable(each) for each in _list_causes(error)):
        return (
            "User code reaches the network only if its venv or backend asks for it: `venvd start --network`, "
            "or `network: true` in the venv."
        )
    return None


def _describe_missing(module: Optional[str]) -> Optional[str]:
    top = (module or "").partition(".")[0]
    if not top.isidentifier() or top in sys.modules or top in getattr(sys, "stdlib_module_names", ()):
        return None
    return (
        'The venv has no module "{}": `venvd venv add VENV {}` adds its package, and `venvd restart BACKEND` starts '
        "with it."
    ).format(top, find_package(top))


def _list_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes. The errors of urllib have their cause as `reason`."""
    current: Optional[BaseException] = error
    for _ in range(_DEEPEST):
        if current is None:
            return
        yield current
        reason = getattr(current, "reason", None)
        current = reason if isinstance(reason, BaseException) else current.__cause__ or current.__context__


def _is_unreachable(error: BaseException) -> bool:
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return isinstance(error, OSError) and error.errno in _UNREACHABLE
