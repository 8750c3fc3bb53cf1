"""The messages of `GetArray` and `PutArray`. It reads and writes chunks without protobuf, which would copy them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError

from venvd._net.bulk import Allocate, split_view
from venvd._transports.base import Call
from venvd.errors import BadReply, InvalidRequest, TooLarge
from venvd_contract import arrays
from venvd_contract.arrays import Header
from venvd_proto import chunks
from venvd_proto.v1 import python_service_pb2 as messages

GET_ARRAY = "/venvd.v1.PythonService/GetArray"
PUT_ARRAY = "/venvd.v1.PythonService/PutArray"


def make_metadata(call: Call[Any], common: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the metadata of a call.

    Raises:
        InvalidRequest: the session's name cannot be metadata.
    """
    metadata = list(common)
    if call.session is not None:
        if not (call.session.isascii() and call.session.isprintable()):
            raise InvalidRequest(f"{call.session!r} is no valid name of a session")
        metadata.append(("x-venvd-session", call.session))
    if call.lease is not None:
        metadata.append(("x-venvd-lease", repr(float(call.lease))))
    return metadata


def encode_get(call: Call[Any]) -> bytes:
    """Return the request of `GetArray`."""
    request = messages.GetArrayRequest(handle_id=call.payload["handleId"], format=call.payload.get("format"))
    return bytes(request.SerializeToString())


def encode_put(call: Call[Any], data: memoryview) -> Iterator[bytes]:
    """Yield the requests of `PutArray`."""
    fields = call.payload
    header = messages.ArrayHeader(**{name: fields.get(name) for name in ("dtype", "shape", "order", "format")})
    yield messages.PutArrayRequest(header=header, into=fields.get("into")).SerializeToString()
    for piece in split_view(data):
        yield chunks.dump(piece)


def decode_put(data: bytes) -> dict[str, str]:
    """Return the reply of `PutArray`."""
    reply = messages.PutArrayResponse.FromString(data)
    return {"handleId": reply.handle_id, "typeName": reply.type_name}


class ArrayParts:
    """Collects the answers of `GetArray` in memory from `allocate`."""

    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate
        self._header: Header | None = None
        self._content = memoryview(b"")
        self._filled = 0

    def take(self, message: bytes) -> None:
        """Take one answer.

        Raises:
            BadReply: the answer is not valid at this point.
        """
        if self._header is None:
            self._begin(message)
            return
        data = _parse_chunk(message)
        end = self._filled + len(data)
        if end > len(self._content):
            raise BadReply("the backend sent more bytes than the array has")
        self._content[self._filled : end] = data
        self._filled = end

    def _begin(self, message: bytes) -> None:
        try:
            header = messages.GetArrayResponse.FromString(message).header
            self._header = arrays.header(header.dtype, list(header.shape), header.order)
            self._content = self._allocate(self._header.nbytes)
        except (DecodeError, InvalidRequest, TooLarge) as error:
            raise BadReply(f"the backend sent an invalid array descriptor: {error}") from None
        except (MemoryError, ValueError, OverflowError):
            raise BadReply("there is no memory for the array") from None

    def whole(self) -> tuple[Header, memoryview]:
        """Return the whole array.

        Raises:
            BadReply: bytes are missing.
        """
        if self._header is None or self._filled != len(self._content):
            raise BadReply(f"the array's bytes ended after {self._filled}")
        return self._header, self._content


def _parse_chunk(message: bytes) -> memoryview:
    chunk: memoryview | None = chunks.load(message)
    if chunk is not None:
        return chunk
    try:
        return memoryview(messages.GetArrayResponse.FromString(message).chunk)
    except DecodeError as error:
        raise BadReply(f"the backend sent an invalid chunk of an array: {error}") from None
