"""Conversion between the messages of the proto and the JSON of the contract, by the descriptors of the messages.

A field `value_json` holds the JSON of the contract's `value` as text, untouched. Every other field has its camelCase
name. Results of sessions are not trusted: a field of the wrong type is an `Internal` error.
"""

from __future__ import annotations

import functools
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
_string = msgspec.json.Decoder(str).decode
_map = msgspec.json.Decoder(dict[str, str]).decode
_items = msgspec.json.Decoder(list[Any]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode

_NO_VALUE = {b"", _NULL}
MOST_OBJECTS = 500_000
"""Objects of one list of a result, and those within them."""


class _Result(msgspec.Struct, gc=False):
    value: msgspec.Raw = msgspec.Raw()
    isHandle: bool = False  # noqa: N815 — a name on the wire


class _Object(msgspec.Struct, gc=False):
    """Any object; its fields are skipped."""


_result = msgspec.json.Decoder(_Result).decode
_objects = msgspec.json.Decoder(list[_Object]).decode

Setter = Callable[[Message, msgspec.Raw], None]


def to_camel(name: str) -> str:
    first, *rest = name.removesuffix(_JSON).split("_")
    return first + "".join(word.capitalize() for word in rest)


# ---- requests --------------------------------------------------------------------------------------------------


def write_payload(message: Message) -> bytes:
    """Write a request as JSON of the contract.

    Fields that are not set are absent, and so are empty ones without presence.

    Raises:
        InvalidRequest: a `…_json` field is not JSON; says which.
        TooLarge: it is nested too deeply.
    """
    return b"{" + b",".join([_member_writer(field)(value) for field, value in message.ListFields()]) + b"}"


@functools.cache
def _member_writer(field: FieldDescriptor) -> Callable[[Any], bytes]:
    """Return a function that writes one field as `"name":value`."""
    begin = b'"%b":' % to_camel(field.name).encode()
    if _is_json(field):
        return lambda value: begin + check_json(field.name, value)
    if _is_map(field):
        return lambda value: begin + _encode(dict(value))
    if field.message_type is not None:
        return lambda value: begin + write_payload(value)
    if field.is_repeated:
        return lambda value: begin + _encode(list(value))
    return lambda value: begin + _encode(value)


def check_json(name: str, text: str) -> bytes:
    """Check that the text of the field `name` is JSON, and return its bytes.

    Raises:
        InvalidRequest, TooLarge: as `write_payload`.
    """
    try:
        _raw(text)
    except RecursionError:
        raise TooLarge(f"{name} is nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{name} is not JSON: {error}") from None
    return text.encode()


def read_text(data: bytes) -> str:
    """Read the text of an event.

    Raises:
        Internal: it is none.
    """
    try:
        return _string(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Internal(f"the session sent an event that cannot be read: {error}") from None


# ---- responses -------------------------------------------------------------------------------------------------


def find_only_value(result: bytes) -> bytes | None:
    """Return the JSON of a result that is plain data; None for a handle, and for a result that `fill` has to check."""
    try:
        fields = _result(result)
        value = b"" if fields.isHandle else bytes(fields.value)
        return None if value in _NO_VALUE or not value.isascii() else value
    except (msgspec.MsgspecError, RecursionError):
        return None


def read_value(result: bytes) -> str | None:
    """Return the JSON of a result that is plain data, or None for a handle.

    Raises:
        Internal: the result has not the form that its command has.
    """
    try:
        value = _result(result).value
        return _text(value) if value else None
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Internal(f"the session sent a result of the wrong form: {error}") from None


def read_member(result: bytes, name: str) -> bytes:
    """Return the JSON of one member of a result.

    Raises:
        Internal: the result has no such member.
    """
    try:
        member = getattr(_member(name)(result), name)
    except (msgspec.MsgspecError, RecursionError):
        member = None
    if not member:
        raise Internal(f'the result has no member "{name}"')
    return bytes(member)


@functools.cache
def _member(name: str) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(msgspec.defstruct("Member", [(name, msgspec.Raw, msgspec.Raw())])).decode


def fill(message: Message, result: bytes) -> Message:
    """Fill `message` from a result, and return it; fields that the proto does not have are left out.

    Raises:
        Internal: the result has not the form that its command has.
    """
    try:
        _fill(message, msgspec.Raw(result))
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError) as error:
        raise Internal(f"the session sent a result of the wrong form: {error}") from None
    return message


def _fill(message: Message, data: msgspec.Raw) -> None:
    decode, setters = _compile_reader(message.DESCRIPTOR)
    decoded = decode(data)
    for name, setter in setters:
        part = getattr(decoded, name)
        if part:
            setter(message, part)


@functools.cache
def _compile_reader(descriptor: Descriptor) -> tuple[Callable[[msgspec.Raw], Any], list[tuple[str, Setter]]]:
    """Return a decoder of the fields that a message has, and what sets each.

    Other fields are skipped and take no memory, however many there are.
    """
    setters = [(to_camel(field.name), _setter(field)) for field in descriptor.fields]
    fields = [(name, msgspec.Raw, msgspec.Raw()) for name, _ in setters]
    return msgspec.json.Decoder(msgspec.defstruct(descriptor.name, fields, gc=False)).decode, setters


def _setter(field: FieldDescriptor) -> Setter:
    name = field.name
    if _is_json(field):
        return (
            _json_list_setter(name) if field.is_repeated else lambda message, data: setattr(message, name, _text(data))
        )
    if _is_map(field):
        return lambda message, data: getattr(message, name).update(_map(data))
    if field.message_type is not None:
        return _messages_setter(name) if field.is_repeated else _message_setter(name)
    if field.is_repeated:
        return lambda message, data: getattr(message, name).extend(_items(data))
    read = _bytes if field.type == FieldDescriptor.TYPE_BYTES else _any

    def set_field(message: Message, data: msgspec.Raw) -> None:
        value = read(data)
        if value is not None:
            setattr(message, name, value)

    return set_field


def _json_list_setter(name: str) -> Setter:
    return lambda message, data: getattr(message, name).extend(map(_text, _split(data)))


def _split(data: msgspec.Raw) -> list[msgspec.Raw]:
    """Split a list into its items, of which each takes many times its bytes.

    Raises:
        ValueError: a long list has too many items, or one that is no object.
    """
    if memoryview(data).nbytes > MOST_OBJECTS:
        if bytes(data).count(b"{") > MOST_OBJECTS:
            raise ValueError(f"a list with more than {MOST_OBJECTS} objects")
        _objects(data)  # which fails at the first item that is none
    return _list(data)


def _message_setter(name: str) -> Setter:
    def set_field(message: Message, data: msgspec.Raw) -> None:
        if bytes(data) != _NULL:
            inner = getattr(message, name)
            inner.SetInParent()
            _fill(inner, data)

    return set_field


def _messages_setter(name: str) -> Setter:
    def set_field(message: Message, data: msgspec.Raw) -> None:
        parts = getattr(message, name)
        for part in _split(data):
            _fill(parts.add(), part)

    return set_field


def _text(data: msgspec.Raw) -> str:
    return str(memoryview(data), "utf-8")


def _is_json(field: FieldDescriptor) -> bool:
    return bool(field.name.endswith(_JSON))


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def message_class(descriptor: Descriptor) -> type[Message]:
    """Return the generated class of a message."""
    generated: type[Message] = GetMessageClass(descriptor)
    return generated
