"""Between messages of the proto and the JSON of the contract, by the messages' own descriptors.

A field `value_json` holds the JSON of the contract's `value`, as text and untouched; every other field stands for
itself under its camelCase name. What a session answered is not trusted: fields of the wrong type are an `Internal`
error.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from venvd_contract.errors import Internal, InvalidRequest, TooLarge

_JSON = "_json"
_NULL = b"null"
_encode = msgspec.json.Encoder().encode
_raw = msgspec.json.Decoder(msgspec.Raw).decode
_any = msgspec.json.Decoder().decode
_bytes = msgspec.json.Decoder(bytes | None).decode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode

Put = Callable[[Message, msgspec.Raw], None]


def camel(name: str) -> str:
    first, *rest = name.removesuffix(_JSON).split("_")
    return first + "".join(word.capitalize() for word in rest)


# ---- requests --------------------------------------------------------------------------------------------------


def payload(message: Message) -> bytes:
    """The contract's request as JSON. A field that is not set, or empty where that cannot be told apart, is absent.

    Raises:
        InvalidRequest: a `…_json` field is not JSON; says which.
        TooLarge: it is nested too deeply.
    """
    return b"{" + b",".join([_member(field)(value) for field, value in message.ListFields()]) + b"}"


@functools.cache
def _member(field: FieldDescriptor) -> Callable[[Any], bytes]:
    """What writes one field as `"name":value`."""
    begin = b'"%b":' % camel(field.name).encode()
    if _is_json(field):
        return lambda value: begin + checked(field.name, value)
    if _is_map(field):
        return lambda value: begin + _encode(dict(value))
    if field.message_type is not None:
        return lambda value: begin + payload(value)
    if field.is_repeated:
        return lambda value: begin + _encode(list(value))
    return lambda value: begin + _encode(value)


def checked(name: str, text: str) -> bytes:
    """The text of a field `name` as JSON.

    Raises:
        InvalidRequest, TooLarge: as `payload`.
    """
    try:
        _raw(text)
    except RecursionError:
        raise TooLarge(f"{name} is nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{name} is not JSON: {error}") from None
    return text.encode()


def encoded(data: Any) -> str:
    """Data of an event as JSON text."""
    try:
        return _encode(data).decode()
    except UnicodeEncodeError:
        return json.dumps(data)  # lone surrogates, which have no UTF-8, as escapes


# ---- responses -------------------------------------------------------------------------------------------------


def only_value(result: bytes) -> bytes | None:
    """The JSON of a *result* that is plain data; None where it is a handle, or no result that `fill` would take."""
    try:
        fields = _object(result)
        value = bytes(fields["value"]) if len(fields) == 1 else _NULL
        return None if value == _NULL or not value.isascii() else value
    except (msgspec.MsgspecError, RecursionError, KeyError):
        return None


def fill(message: Message, result: bytes) -> Message:
    """`message` with what a result holds; fields that the proto does not have are left out.

    Raises:
        Internal: the result is not of the form that its command has.
    """
    try:
        _fill(message, msgspec.Raw(result))
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError) as error:
        raise Internal(f"the session answered with what is no result of its command: {error}") from None
    return message


def _fill(message: Message, data: msgspec.Raw) -> None:
    puts = _puts(message.DESCRIPTOR)
    for name, part in _object(data).items():
        put = puts.get(name)
        if put is not None:
            put(message, part)


@functools.cache
def _puts(descriptor: Descriptor) -> dict[str, Put]:
    return {camel(field.name): _put(field) for field in descriptor.fields}


def _put(field: FieldDescriptor) -> Put:
    name = field.name
    if _is_json(field):
        return _put_json_list(name) if field.is_repeated else lambda message, data: setattr(message, name, _text(data))
    if field.message_type is not None:
        return _put_messages(name) if field.is_repeated else _put_message(name)
    read = _bytes if field.type == FieldDescriptor.TYPE_BYTES else _any

    def put(message: Message, data: msgspec.Raw) -> None:
        value = read(data)
        if value is not None:
            setattr(message, name, value)

    return put


def _put_json_list(name: str) -> Put:
    return lambda message, data: getattr(message, name).extend(map(_text, _list(data)))


def _put_message(name: str) -> Put:
    def put(message: Message, data: msgspec.Raw) -> None:
        if bytes(data) != _NULL:
            inner = getattr(message, name)
            inner.SetInParent()
            _fill(inner, data)

    return put


def _put_messages(name: str) -> Put:
    def put(message: Message, data: msgspec.Raw) -> None:
        parts = getattr(message, name)
        for part in _list(data):
            _fill(parts.add(), part)

    return put


def _text(data: msgspec.Raw) -> str:
    return str(memoryview(data), "utf-8")


def _is_json(field: FieldDescriptor) -> bool:
    return bool(field.name.endswith(_JSON))


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def message_class(descriptor: Descriptor) -> type[Message]:
    found: type[Message] = GetMessageClass(descriptor)
    return found
