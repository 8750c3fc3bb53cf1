"""JSON of clients: absent and null are the same, text is Unicode, and every field is known."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import Any, get_args, get_type_hints

from pydantic import BeforeValidator, GetCoreSchemaHandler

from venvd_contract.errors import InvalidRequest
from venvd_contract.suggestions import suggest


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
        InvalidRequest: names the first unknown one, and the most similar known one.
    """
    kind = next(filter(is_dataclass, (kind, *get_args(kind))), None)
    if kind is None or not isinstance(value, dict):
        return
    known = [each.name for each in fields(kind)]
    hints = get_type_hints(kind)
    for name, inner in value.items():
        if name not in known:
            raise InvalidRequest(f'the field "{place}{name[:80]}" is unknown; {suggest(name, known)}')
        _check_known(hints[name], inner, f"{place}{name}.")


def close_bodies(schema: dict[str, Any]) -> None:
    """Write into an OpenAPI schema that the objects of request bodies have no other fields."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                _close(content["schema"], schema["components"]["schemas"])


def _close(part: dict[str, Any], schemas: dict[str, Any]) -> None:
    for each in (part, *part.get("anyOf", ())):
        model = schemas.get(each.get("$ref", "").rpartition("/")[2])
        if model is not None:
            model["additionalProperties"] = False
            for field in model["properties"].values():
                _close(field, schemas)
