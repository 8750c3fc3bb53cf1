"""The error for a name that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from venvd_contract.errors import NotFound


def absent(kind: str, name: str, there: Iterable[str]) -> NotFound:
    """Says what is missing, and which of those that are there may have been meant."""
    shown = name[:80]
    meant = difflib.get_close_matches(shown, list(there), 1)
    return NotFound(f'no {kind} "{shown}"' + (f'; is "{meant[0]}" meant?' if meant else ""))
