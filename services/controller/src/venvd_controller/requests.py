"""Bodies of requests, made what the contract says: absent and null are the same, text is text."""

from __future__ import annotations

from typing import Any


def cleaned(value: Any) -> Any:
    """A JSON value without the null fields of its objects.

    Raises:
        ValueError: a string holds half a character, which no encoding can carry on.
    """
    if isinstance(value, dict):
        return {cleaned(key): cleaned(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [cleaned(inner) for inner in value]
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("a string holds half of a surrogate pair, which is no text") from None
    return value
