"""Landlock: files, signals and sockets that this process, and all that it starts, can still reach.

It takes no privileges. Older kernels know fewer restrictions: `find_version` returns the version that the kernel knows.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import Dict, Iterable, List, NamedTuple, Optional

from venvd_worker.common import kernel

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIRECTORY = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_FILE, _TRUNCATE, _CONTROL_DEVICE = 1 << 5, 1 << 8, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _CONTROL_DEVICE
_MAKE_DEVICES = 1 << 6 | 1 << 11
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""The number of rights on files that each version knows."""
_SCOPES = 1 << 0 | 1 << 1
"""Forbids connections to abstract sockets and signals to processes that are outside."""
_NEWEST = 6
_HANDLED = struct.Struct("=QQQ")
_RULE = struct.Struct("=Qi")

READ = _READ_FILE | _READ_DIRECTORY
READ_AND_WRITE = READ | _WRITE_FILE
RUN = READ | _EXECUTE
USE = _READ_FILE | _WRITE_FILE | _CONTROL_DEVICE
"""Rights on devices."""
SHARE = _READ_FILE | _WRITE_FILE | _TRUNCATE | _MAKE_FILE | _REMOVE_FILE
"""Rights on a directory in which all sessions make files, and which no session lists."""
OWN = ((1 << 16) - 1) & ~_MAKE_DEVICES

SIGNALS_SINCE = 6
"""The first version that keeps signals and connections to abstract sockets inside."""


def find_version() -> int:
    """Return the version of Landlock's interface that the kernel offers, or 0 without Landlock."""
    return max(0, kernel.find_landlock())


class Rule(NamedTuple):
    """A rule in the form that the kernel takes, and the descriptor of the path that it is about."""

    packed: bytes
    descriptor: int


def prepare(rules: Dict[str, int], version: int) -> List[Rule]:
    """Look up the paths of rules ahead of `restrict`. The caller closes their descriptors.

    Args:
        rules: by path, the rights on a file, or on a directory and all below it. This skips paths that do not exist.
        version: the result of `find_version`.
    """
    handled = _find_handled(version)
    prepared = (_prepare(path, rights & handled) for path, rights in rules.items())
    return [rule for rule in prepared if rule is not None]


def restrict(rules: Iterable[Rule], version: int) -> None:
    """Restrict this thread and all that it starts, for ever. Call `kernel.forbid_new_privileges` first.

    Raises:
        OSError: the kernel does not take the rules.
    """
    descriptor = make(rules, version)
    try:
        kernel.enforce_landlock_rules(descriptor)
    finally:
        os.close(descriptor)


def make(rules: Iterable[Rule], version: int) -> int:
    """Make a descriptor of rules, and do not put them in force.

    Raises:
        OSError: the kernel does not take the rules.
    """
    attributes = _HANDLED.pack(_find_handled(version), 0, _SCOPES)[: 24 if version >= _NEWEST else 8]
    descriptor = kernel.make_landlock_rules(attributes)
    try:
        for rule in rules:
            kernel.add_landlock_rule(descriptor, rule.packed)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _find_handled(version: int) -> int:
    return (1 << _RIGHTS[min(version, max(_RIGHTS))]) - 1


def _prepare(path: str, rights: int) -> Optional[Rule]:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= _OF_FILES
    if not rights:
        os.close(descriptor)
        return None
    return Rule(_RULE.pack(rights, descriptor), descriptor)
