"""Heads and bodies of HTTP/1.1. This module refuses all that two readers could understand differently."""

from __future__ import annotations

import asyncio
import re
from typing import List, NamedTuple, Optional, Protocol, Tuple

MOST_HEAD_BYTES = 64 << 10
CHUNK_BYTES = 1 << 17

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELD = re.compile(r"({}):[ \t]*(.*?)[ \t]*".format(_NAME))
_REQUEST = re.compile(r"({}) ([!-~]+) HTTP/1\.([01])".format(_NAME))
_RESPONSE = re.compile(r"HTTP/1\.[01] ([1-9]\d\d)(?: (.*))?")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SIZE = re.compile(r"([0-9A-Fa-f]{1,15})[ \t]*(;.*)?")
_LONGEST_LINE = 4096

Fields = List[Tuple[str, str]]


class Reader(Protocol):
    """The part of `asyncio.StreamReader` that is used here."""

    async def read(self, most: int) -> bytes: ...

    async def readexactly(self, count: int) -> bytes: ...

    async def readuntil(self, separator: bytes) -> bytes: ...


class Writer(Protocol):
    """The part of `asyncio.StreamWriter` that is used here."""

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...


class Malformed(Exception):
    """A peer did not send HTTP/1.1."""


class RequestHead(NamedTuple):
    method: str
    target: str
    minor: int
    """The minor version, 0 or 1."""
    fields: Fields


class ResponseHead(NamedTuple):
    status: int
    reason: str
    fields: Fields


class Body(NamedTuple):
    """How a body ends: after `length` bytes, with its last chunk, or, without both, with the connection."""

    length: Optional[int] = None
    chunked: bool = False


async def read_request(reader: Reader) -> RequestHead:
    """Read the head of a request.

    Raises:
        Malformed: it is no such head.
        EOFError: the peer closed the connection.
    """
    line, fields = await _read_head(reader)
    match = _REQUEST.fullmatch(line)
    if match is None:
        raise Malformed("the first line is not that of an HTTP/1.1 request")
    return RequestHead(match[1], match[2], int(match[3]), fields)


async def read_response(reader: Reader) -> ResponseHead:
    """Read the head of a response.

    Raises:
        Malformed: it is no such head.
        EOFError: the peer closed the connection.
    """
    line, fields = await _read_head(reader)
    match = _RESPONSE.fullmatch(line)
    if match is None:
        raise Malformed("the first line is not that of an HTTP/1.1 response")
    return ResponseHead(int(match[1]), match[2] or "", fields)


async def _read_head(reader: Reader) -> Tuple[str, Fields]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise Malformed("the head is larger than {} bytes".format(MOST_HEAD_BYTES)) from None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    fields: Fields = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None or _FORBIDDEN.search(line):
            raise Malformed("a header is not a name, a colon and a value in one line")
        fields.append((match[1], match[2]))
    return first, fields


def write_head(first: str, fields: Fields) -> bytes:
    """Write a head from parts that this module has read."""
    return "".join([first, "\r\n", *("{}: {}\r\n".format(*field) for field in fields), "\r\n"]).encode("latin-1")


def list_values(fields: Fields, name: str) -> List[str]:
    """Return the comma-separated parts of all headers with a name, in lower case."""
    values = [value for key, value in fields if key.lower() == name]
    return [part.strip().lower() for value in values for part in value.split(",") if part.strip()]


def find_body(fields: Fields) -> Body:
    """Find out how a body ends.

    Raises:
        Malformed: the headers have two possible meanings.
    """
    codings, lengths = list_values(fields, "transfer-encoding"), set(list_values(fields, "content-length"))
    if codings:
        if codings != ["chunked"] or lengths:
            raise Malformed("the length of the body is not clear")
        return Body(chunked=True)
    if not lengths:
        return Body()
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit()) or len(length) > 18:
        raise Malformed("the length of the body is not clear")
    return Body(length=int(length))


async def copy_body(body: Body, reader: Reader, writer: Writer, *, chunked: bool = True) -> None:
    """Copy a body. Chunks get new heads, or none unless `chunked`; lines after the last chunk are dropped.

    Raises:
        Malformed: it does not have the form that its head says.
        EOFError: it ended too early.
    """
    if body.chunked:
        while True:
            size = await _read_size(reader)
            if chunked:
                writer.write(b"%x\r\n" % size)
            if not size:
                break
            await _copy_bytes(size, reader, writer)
            if await reader.readexactly(2) != b"\r\n":
                raise Malformed("a chunk has another length than it says")
            if chunked:
                writer.write(b"\r\n")
        while await _read_line(reader):
            pass
        if chunked:
            writer.write(b"\r\n")
    elif body.length is not None:
        await _copy_bytes(body.length, reader, writer)
    else:
        await copy_all(reader, writer)
    await writer.drain()


async def copy_all(reader: Reader, writer: Writer) -> None:
    """Copy all bytes until the peer ends its side."""
    while True:
        data = await reader.read(CHUNK_BYTES)
        if not data:
            return
        writer.write(data)
        await writer.drain()


async def _copy_bytes(rest: int, reader: Reader, writer: Writer) -> None:
    while rest:
        data = await reader.read(min(rest, CHUNK_BYTES))
        if not data:
            raise EOFError
        rest -= len(data)
        writer.write(data)
        await writer.drain()


async def _read_size(reader: Reader) -> int:
    match = _SIZE.fullmatch(await _read_line(reader))
    if match is None:
        raise Malformed("a chunk does not begin with its length")
    return int(match[1], 16)


async def _read_line(reader: Reader) -> str:
    try:
        line = (await reader.readuntil(b"\r\n"))[:-2].decode("latin-1")
    except asyncio.LimitOverrunError:
        line = "\n"
    if len(line) > _LONGEST_LINE or _FORBIDDEN.search(line):
        raise Malformed("a line within the body is too long or invalid")
    return line
