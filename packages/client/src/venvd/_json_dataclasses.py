"""Makes dataclasses of the contract from JSON objects. Ignores unknown fields; a null or absent one is its default."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, Union

from venvd.errors import BadReply

T = TypeVar("T")
_Convert = Callable[[Any], Any]


def from_json(kind: type[T], data: Any) -> T:
    """Make a `kind` from a JSON object.

    Raises:
        BadReply: `data` is not an object, or lacks a field that has no default.
    """
    if not isinstance(data, dict):
        raise BadReply(f"a {kind.__name__} should be a JSON object, not {type(data).__name__}")
    plan = _plans.get(kind)
    if plan is None:
        plan = _plans[kind] = _make_plan(kind)
    arguments = {}
    for name, convert, default in plan:
        value = data.get(name)
        if value is not None:
            arguments[name] = value if convert is None else convert(value)
        elif default is MISSING:
            raise BadReply(f'a {kind.__name__} lacks the field "{name}"')
        else:
            arguments[name] = default()
    return kind(**arguments)


def list_decoder(kind: type[T]) -> Callable[[Any], list[T]]:
    """Return the function that makes a list of `kind` from a JSON array."""

    def decode(data: Any) -> list[T]:
        if not isinstance(data, list):
            raise BadReply(f"a list of {kind.__name__} should be a JSON array, not {type(data).__name__}")
        return [from_json(kind, item) for item in data]

    return decode


_Plan = tuple[tuple[str, _Convert | None, Any], ...]
_plans: dict[type[Any], _Plan] = {}


def _make_plan(kind: type[Any]) -> _Plan:
    hints = typing.get_type_hints(kind)
    return tuple(
        (field.name, _choose_converter(hints[field.name]), _choose_default(field, hints[field.name]))
        for field in fields(kind)
    )


def _choose_default(field: Field[Any], hint: Any) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory
    if field.default is not MISSING:
        return lambda: field.default
    # A field that may be null may be absent.
    return (lambda: None) if _strip_optional(hint) is not None or hint is Any else MISSING


def _strip_optional(hint: Any) -> Any:
    """Return the type inside an Optional, or None if `hint` is not an Optional."""
    if typing.get_origin(hint) not in {Union, types.UnionType}:
        return None
    inner = [part for part in typing.get_args(hint) if part is not type(None)]
    return inner[0] if len(inner) == 1 else None


def _choose_converter(hint: Any) -> _Convert | None:
    """Return the function that makes a field's value from its JSON, or None if they are the same."""
    inner = _strip_optional(hint)
    if inner is not None:
        return _choose_converter(inner)
    if isinstance(hint, type) and is_dataclass(hint):
        return lambda value: from_json(hint, value)
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is list and is_dataclass(arguments[0]):
        return list_decoder(typing.cast("type[Any]", arguments[0]))
    return None
