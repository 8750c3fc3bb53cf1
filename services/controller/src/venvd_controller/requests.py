"""JSON of clients: absent and null are the same, and text is Unicode."""

from __future__ import annotations

from typing import Any


def drop_nulls(value: Any) -> Any:
    """Return a JSON value without the null fields of its objects.

    Raises:
        ValueError: a string holds half of a surrogate pair, which has no encoding.
    """
    if isinstance(value, dict):
        return {drop_nulls(key): drop_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [drop_nulls(inner) for inner in value]
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("a string holds half of a surrogate pair, which is not text") from None
    return value
