"""Suggests a known name in the error about an unknown one."""

from __future__ import annotations

import difflib
from typing import Collection, Iterable

from venvd_contract.errors import InvalidRequest

_LONGEST = 80


def suggest(name: str, known: Collection[str]) -> str:
    """Ask whether the most similar known name is meant; without one, list the known names."""
    similar = difflib.get_close_matches(name[:_LONGEST], known, 1)
    return 'is "{}" meant?'.format(similar[0]) if similar else "known are {}".format(", ".join(known) or "none")


def check_names(given: Iterable[str], known: Collection[str], what: str = "the field", place: str = "") -> None:
    """Check that names are known.

    Args:
        given: the names that a client sent.
        known: the names that it may send.
        what: the kind of the names, such as `the field`, for the error.
        place: a path that the error puts before the name.

    Raises:
        InvalidRequest: names the first unknown one, and the most similar known one.
    """
    for name in given:
        if name not in known:
            raise InvalidRequest('{} "{}{}" is unknown; {}'.format(what, place, name[:_LONGEST], suggest(name, known)))
