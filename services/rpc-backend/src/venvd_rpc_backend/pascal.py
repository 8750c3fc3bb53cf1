"""The contract's JSON under PascalCase names, as old clients of the rpc host have it.

Only the contract's own fields change their names; what stands in values is the user's.
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

BARE = {"tofloatarray": b"Data", "tofloatarray2d": b"Rows"}
"""Under which name the commands that answer with a bare array do so here."""


def upper(name: str) -> str:
    return name[:1].upper() + name[1:]


def lower(name: str) -> str:
    return name[:1].lower() + name[1:]


def payload(body: bytes) -> bytes:
    """A request in PascalCase, or camelCase, as the contract's.

    Raises:
        InvalidRequest: no JSON object.
        TooLarge: nested too deeply.
    """
    if not body.strip():
        return b"{}"
    try:
        body.decode()
        found = _object(body)
    except RecursionError:
        raise TooLarge("the body is nested too deeply") from None
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise InvalidRequest(f"the body is no JSON object: {error}") from None
    return _joined((_encode(lower(name)), bytes(part)) for name, part in found.items())


def response(command: Command, result: bytes) -> bytes:
    """A result of the contract in PascalCase.

    Raises:
        Internal: the result is not of the form that its command has.
    """
    bare = BARE.get(command.name)
    if bare is not None:
        return b'{"%b":%b}' % (bare, result)
    try:
        return _renamed(command.response, msgspec.Raw(result))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Internal(f"the session answered with what is no result of its command: {error}") from None


def _renamed(model: Any, data: msgspec.Raw) -> bytes:
    raw = bytes(data)
    if raw == _NULL:
        return raw
    if get_origin(model) is list:
        (item,) = get_args(model)
        return b"[%b]" % b",".join(_renamed(item, part) for part in _list(data)) if is_dataclass(item) else raw
    if not is_dataclass(model):
        return raw
    models = _models(model)
    return _joined((_encode(upper(name)), _renamed(models.get(name), part)) for name, part in _object(data).items())


def _models(model: Any) -> dict[str, Any]:
    """The model of each field that has one: itself, or the one of its items, or the one that may be absent."""
    hints = get_type_hints(model)
    found = {}
    for field in fields(model):
        hint = hints[field.name]
        inner = [part for part in get_args(hint) if is_dataclass(part)]
        found[field.name] = inner[0] if inner and get_origin(hint) is not list else hint
    if model is Output:
        found["result"] = Result
    return found


def _joined(members: Any) -> bytes:
    return b"{%b}" % b",".join(b"%b:%b" % member for member in members)
