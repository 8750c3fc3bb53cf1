"""Makes text of other people safe for a terminal, which would obey its escapes."""

from __future__ import annotations

import re

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters except tab and line end, and marks that change the direction of text."""


def visible(text: str) -> str:
    r"""Return the text with these characters as Python writes them in a string, such as `\x1b`."""
    return _OBEYED.sub(lambda match: ascii(match[0])[1:-1], text)
