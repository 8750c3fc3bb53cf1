"""Describes wrong settings. Each line has the variable, its value, and what it takes."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from venvd_controller.settings import Settings

_KINDS: dict[Any, str] = {bool: "1 or 0", int: "a whole number", float: "a number"}
_BOUNDS = (("at least", Ge, "ge"), ("more than", Gt, "gt"), ("at most", Le, "le"))
_MAX_SHOWN = 80


def describe_settings_errors(error: ValidationError) -> list[str]:
    """Describe each wrong setting in a sentence."""
    return [_describe(detail) for detail in error.errors()]


def _describe(detail: Any) -> str:
    if not detail["loc"]:  # of several settings together; the message names them
        return str(detail["msg"]).removeprefix("Value error, ")
    name = str(detail["loc"][0])
    field = Settings.model_fields[name]
    expected = _describe_expected(field) or detail["msg"].removeprefix("Value error, takes ")
    return f"VENVD_{name.upper()} is {_describe_value(field, detail['input'])}: it takes {expected}"


def _describe_value(field: FieldInfo, value: Any) -> str:
    if SecretStr in {field.annotation, *typing.get_args(field.annotation)}:
        return "wrong"
    text = str(value)
    return f'"{text[:_MAX_SHOWN]}…"' if len(text) > _MAX_SHOWN else f'"{text}"'


def _describe_expected(field: FieldInfo) -> str | None:
    """Describe the right values, as far as the field's type defines them."""
    kind: Any = field.annotation
    if isinstance(kind, types.UnionType):  # such as `int | None`: None cannot be written in a variable
        kind, *others = (each for each in typing.get_args(kind) if each is not types.NoneType)
        if others:
            return None
    if typing.get_origin(kind) is Literal:
        *most, last = typing.get_args(kind)
        return f"{', '.join(most)} or {last}"
    if kind not in _KINDS:
        return None
    bounds = [
        f"{words} {getattr(bound, attribute):.15g}"
        for words, bound_type, attribute in _BOUNDS
        for bound in field.metadata
        if isinstance(bound, bound_type)
    ]
    return _KINDS[kind] + (" of " + " and ".join(bounds) if bounds else "")
