"""Checks the fields of a message against those that a dataclass declares."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, Dict, List, Optional, Tuple, Type, get_type_hints

from venvd_contract.errors import InvalidRequest

_KINDS: Dict[Any, Tuple[type, str]] = {
    str: (str, "a string"),
    List[Any]: (list, "an array"),
    List[str]: (list, "an array of strings"),
    List[int]: (list, "an array of whole numbers"),
    Dict[str, Any]: (dict, "an object"),
    Dict[str, str]: (dict, "an object of strings"),
    float: (float, "a number"),
    int: (int, "a whole number"),
    bool: (bool, "true or false"),
}


@dataclass(frozen=True)
class Field:
    """A declared field: the type of its values, None for any, and that of their items."""

    name: str
    kind: Optional[type]
    says: str
    required: bool
    items: Optional[type]
    default: Any


def list_fields(model: Type[Any]) -> Tuple[Field, ...]:
    """Return the fields of a dataclass, in the form that `check_fields` takes."""
    hints = get_type_hints(model)
    specs = []
    for declared in fields(model):
        hint = hints[declared.name]
        inner = [part for part in getattr(hint, "__args__", ()) if part is not type(None)]
        plain = inner[0] if type(None) in getattr(hint, "__args__", ()) and inner else hint
        kind, says = _KINDS.get(plain, (None, "any value"))
        factory = declared.default_factory
        default = factory if factory is not MISSING else (lambda value=declared.default: value)
        required = declared.default is MISSING and factory is MISSING
        items = str if "strings" in says else int if "whole numbers" in says else None
        specs.append(Field(declared.name, kind, says, required, items, default))
    return tuple(specs)


def check_fields(command: str, declared: Tuple[Field, ...], payload: Any) -> Dict[str, Any]:
    """Return the value of each declared field: absent and null become the default. Unknown fields are dropped.

    Raises:
        InvalidRequest: the payload is not an object, or a field is missing or of the wrong type. The message begins
            with `command`, and names the field.
    """
    if type(payload) is not dict:
        raise InvalidRequest("{}: the request must be a JSON object, not {}".format(command, _name_kind(payload)))
    values = {}
    for spec in declared:
        value = payload.get(spec.name)
        if value is None:
            if spec.required:
                raise InvalidRequest('{}: the field "{}" is missing; it takes {}'.format(command, spec.name, spec.says))
            value = spec.default()
        elif spec.kind is not None:
            _check_kind(command, spec, value)
        values[spec.name] = value
    return values


def _check_kind(command: str, spec: Field, value: Any) -> None:
    right = type(value) is spec.kind or (spec.kind is float and type(value) is int)
    if right and spec.items is not None:
        inside = value.values() if type(value) is dict else value
        right = all(type(item) is spec.items for item in inside)
    if not right:
        raise InvalidRequest(
            '{}: the field "{}" takes {}, not {}'.format(command, spec.name, spec.says, _name_kind(value))
        )


def _name_kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
