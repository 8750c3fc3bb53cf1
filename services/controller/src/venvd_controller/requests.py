"""Checks JSON of clients: absent and null are the same, text is Unicode, and every field is known."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any, get_args, get_type_hints

from pydantic import BeforeValidator, GetCoreSchemaHandler

from venvd_contract.suggestions import check_names


def drop_nulls(value: Any) -> Any:
    """Return a JSON value without the null fields of its objects.

    Raises:
        ValueError: a string contains half of a surrogate pair, which has no encoding.
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


@dataclass(frozen=True)
class _JsonFields:
    """Marks a dataclass that is read from JSON."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return BeforeValidator(partial(_read, source)).__get_pydantic_core_schema__(source, handler)


JSON_FIELDS = _JsonFields()


def _read(kind: Any, given: Any) -> Any:
    value = drop_nulls(given)
    _check_known(kind, value, "")
    return value


def _check_known(kind: Any, value: Any, place: str) -> None:
    """Check the names of all fields of an object and of the objects in it.

    Raises:
        InvalidRequest: a field is unknown; the message names the first, and the most similar known one.
    """
    kind = next(filter(is_dataclass, (kind, *get_args(kind))), None)
    if kind is None or not isinstance(value, dict):
        return
    check_names(value, [each.name for each in fields(kind)], place=place)
    hints = get_type_hints(kind)
    for name, inner in value.items():
        _check_known(hints[name], inner, f"{place}{name}.")
