"""The contract's JSON with PascalCase names, as old clients of the rpc host use it.

The contract's own fields change their names. Names inside values belong to the user and stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from venvd_contract.commands import Command, Output, Result
from venvd_contract.errors import Internal, InvalidRequest, TooLarge

Rename = Callable[[msgspec.Raw], bytes]

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_NULL = b"null"

BARE = {"tofloatarray": b"Data", "tofloatarray2d": b"Data"}
"""The field that holds the array, for commands whose result is a bare array."""


def upper(name: str) -> str:
    return name[:1].upper() + name[1:]


def lower(name: str) -> str:
    return name[:1].lower() + name[1:]


def read_request(body: bytes) -> bytes:
    """Convert a request from PascalCase to the contract's names; camelCase passes too.

    Raises:
        InvalidRequest: the body is not a JSON object.
        TooLarge: nested too deeply.
    """
    if not body.strip():
        return b"{}"
    try:
        body.decode()
        members = _object(body)
    except RecursionError:
        raise TooLarge("the body is nested too deeply") from None
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise InvalidRequest(f"the body is not a JSON object: {error}") from None
    return _join((_encode(lower(name)), bytes(part)) for name, part in members.items())


def render_response(command: Command, result: bytes) -> bytes:
    """Convert a result of the contract to PascalCase.

    Raises:
        Internal: the result does not fit its command.
    """
    bare = BARE.get(command.name)
    if bare is not None:
        return b'{"%b":%b}' % (bare, result)
    try:
        return _rename(command.response, msgspec.Raw(result))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Internal(f"the session sent an invalid result: {error}") from None


def _rename(model: Any, data: msgspec.Raw) -> bytes:
    raw = bytes(data)
    if raw == _NULL:
        return raw
    if get_origin(model) is list:
        (item,) = get_args(model)
        return b"[%b]" % b",".join(_rename(item, part) for part in _list(data)) if is_dataclass(item) else raw
    if not is_dataclass(model):
        return raw
    models = _field_models(model)
    return _join((_encode(upper(name)), _rename(models.get(name), part)) for name, part in _object(data).items())


def _field_models(model: Any) -> dict[str, Any]:
    """Return the type of each field; for an optional field, the type without None."""
    hints = get_type_hints(model)
    models = {}
    for field in fields(model):
        hint = hints[field.name]
        inner = [part for part in get_args(hint) if is_dataclass(part)]
        models[field.name] = inner[0] if inner and get_origin(hint) is not list else hint
    if model is Output:
        models["result"] = Result
    return models


def _join(members: Any) -> bytes:
    return b"{%b}" % b",".join(b"%b:%b" % member for member in members)
