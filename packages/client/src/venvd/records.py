"""JSON objects as the dataclasses of the contract: unknown fields are ignored, absent and null are the default."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, Union

from venvd.errors import BadReply

T = TypeVar("T")
_Convert = Callable[[Any], Any]


def record(kind: type[T], data: Any) -> T:
    """`data` as a `kind`.

    Raises:
        BadReply: no object, or a field without a default is missing.
    """
    if not isinstance(data, dict):
        raise BadReply(f"a {kind.__name__} should be a JSON object, not {type(data).__name__}")
    found = {}
    plan = _plans.get(kind)
    if plan is None:
        plan = _plans[kind] = _plan(kind)
    for name, convert, default in plan:
        value = data.get(name)
        if value is not None:
            found[name] = value if convert is None else convert(value)
        elif default is MISSING:
            raise BadReply(f'a {kind.__name__} lacks the field "{name}"')
        else:
            found[name] = default()
    return kind(**found)


def records(kind: type[T]) -> Callable[[Any], list[T]]:
    """What makes a list of `kind` out of a JSON array."""

    def convert(data: Any) -> list[T]:
        if not isinstance(data, list):
            raise BadReply(f"a list of {kind.__name__} should be a JSON array, not {type(data).__name__}")
        return [record(kind, item) for item in data]

    return convert


_Plan = tuple[tuple[str, _Convert | None, Any], ...]
_plans: dict[type[Any], _Plan] = {}


def _plan(kind: type[Any]) -> _Plan:
    hints = typing.get_type_hints(kind)
    return tuple(
        (field.name, _converter(hints[field.name]), _default(field, hints[field.name])) for field in fields(kind)
    )


def _default(field: Field[Any], hint: Any) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory
    if field.default is not MISSING:
        return lambda: field.default
    # A field that may be null need not be there.
    return (lambda: None) if _optional(hint) is not None or hint is Any else MISSING


def _optional(hint: Any) -> Any:
    """The type inside an Optional, or None."""
    if typing.get_origin(hint) not in {Union, types.UnionType}:
        return None
    inner = [part for part in typing.get_args(hint) if part is not type(None)]
    return inner[0] if len(inner) == 1 else None


def _converter(hint: Any) -> _Convert | None:
    """What makes a field's value of its JSON; None where they are the same."""
    inner = _optional(hint)
    if inner is not None:
        return _converter(inner)
    if isinstance(hint, type) and is_dataclass(hint):
        return lambda value: record(hint, value)
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is list and is_dataclass(arguments[0]):
        return records(typing.cast("type[Any]", arguments[0]))
    return None
