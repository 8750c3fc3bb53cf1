"""What an error says of a name that is not known."""

from __future__ import annotations

import difflib
from typing import Collection

_LONGEST = 80


def suggest(name: str, known: Collection[str]) -> str:
    """Ask whether the most similar known name is meant; without one, list the known names."""
    similar = difflib.get_close_matches(name[:_LONGEST], known, 1)
    return 'is "{}" meant?'.format(similar[0]) if similar else "known are {}".format(", ".join(known))
