"""Lists the entries of a directory in the order of their names, a page at a time."""

from __future__ import annotations

import heapq
import os
from typing import Iterator, List, NamedTuple

from venvd_worker.files import paths


class Scope(NamedTuple):
    """Which entries to list."""

    recursive: bool
    limit: int
    after: List[bytes]
    """The names of the path after which the list begins."""


def entries(directory: int, above: List[bytes], scope: Scope) -> Iterator[paths.Found]:
    """Yield the entries of `directory`, whose path has the names `above`. Leave out entries that vanish meanwhile.

    From the beginning of the list on, this looks at no more than `limit` names of each directory.
    """
    first, rest = (scope.after[0], scope.after[1:]) if scope.after else (b"", [])
    for name in _names(directory, first, scope.limit + 1):
        names = [*above, name]
        file_status = paths.status(directory, name)
        if file_status is None:
            continue
        begun = bool(scope.after) and name == first
        if not begun:
            yield names, file_status
        if scope.recursive and paths.kind_of(file_status) == "directory" and len(names) < paths.DEEPEST:
            yield from _below(directory, names, scope._replace(after=rest if begun else []))


def _below(directory: int, names: List[bytes], scope: Scope) -> Iterator[paths.Found]:
    try:
        walked = os.open(names[-1], paths.DIRECTORY, dir_fd=directory)
        try:
            inner = paths.open_to_list(walked)
        finally:
            os.close(walked)
    except OSError:  # it was replaced meanwhile, or may not be read
        return
    try:
        yield from entries(inner, names, scope)
    finally:
        os.close(inner)


def _names(directory: int, first: bytes, most: int) -> List[bytes]:
    with os.scandir(directory) as listed:
        encoded = (os.fsencode(entry.name) for entry in listed)
        return heapq.nsmallest(most, (name for name in encoded if name >= first))
