"""`GetArray` and `PutArray`: bytes in chunks, which protobuf would copy several times, read and written without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError

from venvd.errors import BadReply, InvalidRequest, TooLarge
from venvd.net.bulk import Allocate, pieces
from venvd.transports.base import Call
from venvd_contract import arrays
from venvd_contract.arrays import Header
from venvd_proto import chunks
from venvd_proto.v1 import python_service_pb2 as messages

GET_ARRAY = "/venvd.v1.PythonService/GetArray"
PUT_ARRAY = "/venvd.v1.PythonService/PutArray"


def metadata_of(call: Call[Any], common: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What a call says beside its messages.

    Raises:
        InvalidRequest: a session whose name cannot stand there.
    """
    found = list(common)
    if call.session is not None:
        if not (call.session.isascii() and call.session.isprintable()):
            raise InvalidRequest(f"{call.session!r} is no name of a session")
        found.append(("x-venvd-session", call.session))
    if call.lease is not None:
        found.append(("x-venvd-lease", repr(float(call.lease))))
    return found


def asked(call: Call[Any]) -> bytes:
    """The message of `GetArray`."""
    made = messages.GetArrayRequest(handle_id=call.payload["handleId"], format=call.payload.get("format"))
    return bytes(made.SerializeToString())


def sent(call: Call[Any], data: memoryview) -> Iterator[bytes]:
    """The messages of `PutArray`."""
    fields = call.payload
    header = messages.ArrayHeader(**{name: fields.get(name) for name in ("dtype", "shape", "order", "format")})
    yield messages.PutArrayRequest(header=header, into=fields.get("into")).SerializeToString()
    for piece in pieces(data):
        yield chunks.dump(piece)


def put_reply(data: bytes) -> dict[str, str]:
    """The reply of `PutArray`."""
    found = messages.PutArrayResponse.FromString(data)
    return {"handleId": found.handle_id, "typeName": found.type_name}


class Parts:
    """Takes the messages of `GetArray`: what they hold goes into the room that `allocate` makes for it."""

    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate
        self._header: Header | None = None
        self._content = memoryview(b"")
        self._filled = 0

    def take(self, message: bytes) -> None:
        """Raises:
        BadReply: it is not what may come now.
        """
        if self._header is None:
            self._begin(message)
            return
        data = _chunk(message)
        end = self._filled + len(data)
        if end > len(self._content):
            raise BadReply("more bytes came than the array has")
        self._content[self._filled : end] = data
        self._filled = end

    def _begin(self, message: bytes) -> None:
        try:
            found = messages.GetArrayResponse.FromString(message).header
            self._header = arrays.header(found.dtype, list(found.shape), found.order)
            self._content = self._allocate(self._header.nbytes)
        except (DecodeError, InvalidRequest, TooLarge) as error:
            raise BadReply(f"the first message of an array is no header: {error}") from None
        except (MemoryError, ValueError, OverflowError):
            raise BadReply("there is no memory for the array") from None

    def whole(self) -> tuple[Header, memoryview]:
        """What came.

        Raises:
            BadReply: they are not all there.
        """
        if self._header is None or self._filled != len(self._content):
            raise BadReply(f"the array's bytes ended after {self._filled}")
        return self._header, self._content


def _chunk(message: bytes) -> memoryview:
    found: memoryview | None = chunks.load(message)
    if found is not None:
        return found
    try:
        return memoryview(messages.GetArrayResponse.FromString(message).chunk)
    except DecodeError as error:
        raise BadReply(f"a chunk of an array is no message: {error}") from None
