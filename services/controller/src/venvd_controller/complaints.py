"""What is wrong with the settings, one line for each: the variable, what it has, and what it takes."""

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
_SHOWN = 80


def complaints(error: ValidationError) -> list[str]:
    """A sentence for each setting that is wrong."""
    return [_complaint(found) for found in error.errors()]


def _complaint(found: Any) -> str:
    name = str(found["loc"][0])
    field = Settings.model_fields[name]
    takes = _takes(field) or found["msg"].removeprefix("Value error, takes ")
    return f"VENVD_{name.upper()} is {_given(field, found['input'])}: it takes {takes}"


def _given(field: FieldInfo, value: Any) -> str:
    if SecretStr in {field.annotation, *typing.get_args(field.annotation)}:
        return "wrong"
    text = str(value)
    return f'"{text[:_SHOWN]}…"' if len(text) > _SHOWN else f'"{text}"'


def _takes(field: FieldInfo) -> str | None:
    """What would be right, as far as the type says it."""
    kind: Any = field.annotation
    if typing.get_origin(kind) is Literal:
        *most, last = typing.get_args(kind)
        return f"{', '.join(most)} or {last}"
    if kind not in _KINDS or isinstance(kind, types.UnionType):
        return None
    return " ".join([_KINDS[kind], *_bounds(field)])


def _bounds(field: FieldInfo) -> list[str]:
    found = [
        f"{words} {getattr(bound, attribute):g}"
        for words, kind, attribute in _BOUNDS
        for bound in field.metadata
        if isinstance(bound, kind)
    ]
    return ["of " + " and ".join(found)] if found else []
