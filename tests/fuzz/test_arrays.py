"""Fuzzing of what describes arrays and tables: `.npy` headers, dtypes and Arrow streams."""

from __future__ import annotations

import io
import json
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from harness.fuzzing import cuts, damaged, fuzz, json_texts, outcome
from hypothesis import strategies as st

from venvd import _tables
from venvd.errors import BadReply
from venvd_contract import arrays
from venvd_contract.errors import InvalidRequest, TooLarge
from venvd_contract.tables import table_in

DTYPES = ("<f8", "|b1", ">i4", "<M8[ns]", "<m8[25s]", "|S5", "<U7", "<c16", "f8", "|O", "|V8", "<f3", "<U0", "<M8[xs]")
SHAPES = (
    "()",
    "(3,)",
    "(2, 3)",
    "(0, 5)",
    "(1,)*3",
    "(True,)",
    "(-1,)",
    "(3",
    "[3]",
    "(9223372036854775807,)",
    "(1,0)",
)
npy_texts = st.tuples(
    st.sampled_from(
        [*(repr(each) for each in DTYPES), "[('a', '<f8')]", "1", "'\\d'", "b'<f8'", "'<f8' '<f8'", "-" * 3000 + "1"]
    ),
    st.sampled_from(["True", "False", "1", "None"]),
    st.sampled_from(SHAPES),
    st.sampled_from(["", ", 'more': 1", ", []: 1", "\x00", "+" + "1+" * 3000 + "1", " is 1", "#", "\\"]),
).map(lambda parts: "{{'descr': {}, 'fortran_order': {}, 'shape': {}{}}}".format(*parts).encode())


def make_npy(parts: tuple[bytes, bytes, int, bytes]) -> bytes:
    version, text, padding, rest = parts
    text = text[:60_000] + b" " * padding + b"\n"
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text + rest


npy_streams = st.tuples(
    st.sampled_from([b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x04\x00"]),
    npy_texts | json_texts,
    st.sampled_from([0, 1, 17, 5000, 5600]),
    st.binary(max_size=30),
).map(make_npy)


@fuzz(damaged(npy_streams, 3))
def test_npy(data: bytes) -> None:
    """A header is parsed as numpy parses it, or refused with a sentence; it is found as soon as it is whole."""
    kind, parsed = outcome(lambda: arrays.parse_npy(data), InvalidRequest, TooLarge)
    if kind != "value":
        assert 0 < len(parsed) < 1000
        return
    if parsed is None:
        assert len(data) < arrays.MAX_NPY_HEADER
        return
    header, size = parsed
    assert size <= arrays.MAX_NPY_HEADER
    assert header.nbytes <= arrays.MAX_BYTES
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is not None:
        shape, columns, dtype = read(stream, max_header_size=1 << 17)
        assert (shape, "F" if columns else "C", dtype, stream.tell()) == (
            header.shape,
            header.order,
            np.dtype(header.dtype),
            size,
        )
    for pieces in cuts(data):
        came = b""
        for piece in pieces:
            came += piece
            early = outcome(lambda came=came: arrays.parse_npy(came), InvalidRequest, TooLarge)
            assert early == ("value", parsed if len(came) >= size else None)
    again = arrays.parse_npy(arrays.dump_npy(header))
    assert again is not None
    assert (again[0].dtype, again[0].shape, again[0].nbytes) == (header.dtype, header.shape, header.nbytes)


@fuzz(
    st.tuples(st.sampled_from([json.dumps(dtype).encode() for dtype in DTYPES]) | json_texts, json_texts).map(b" ".join)
)
def test_array_descriptions(data: bytes) -> None:
    """A description is refused with a short sentence, or has the size that numpy gives it."""
    dtype, _, shape = data.partition(b" ")
    kind, fields = outcome(
        lambda: {"dtype": json.loads(dtype), "shape": json.loads(shape or b"[3]")}, ValueError, RecursionError
    )
    if kind != "value":
        return
    kind, header = outcome(lambda: arrays.read_header(fields), InvalidRequest, TooLarge)
    if kind != "value":
        assert 0 < len(header) < 1000
    else:
        assert header.itemsize == np.dtype(header.dtype).itemsize
        assert header.nbytes == header.itemsize * int(np.prod(header.shape, dtype=object))


@cache
def make_streams() -> list[bytes]:
    """Arrow streams of every kind of column that has offsets, lengths or indices."""
    columns: dict[str, Any] = {
        "texts": pa.array(["a", None, "ccc" * 20, ""]),
        "long": pa.array(["a", "b", None, "d"], pa.large_string()),
        "lists": pa.array([[1, 2], [], None, [3]]),
        "nested": pa.array([{"a": 1, "b": "x"}, None, {"a": 2, "b": "y"}, {"a": None, "b": None}]),
        "words": pa.array(["x", "y", "x", None]).dictionary_encode(),
        "numbers": pa.array([1.5, None, 3.0, 4.0]),
        "unions": pa.UnionArray.from_dense(
            pa.array([0, 1, 0, 1], pa.int8()),
            pa.array([0, 0, 1, 1], pa.int32()),
            [pa.array([1, 2]), pa.array(["a", "b"])],
        ),
        "maps": pa.array([[("k", 1)], [], None, [("m", 2)]], pa.map_(pa.string(), pa.int64())),
    }
    written = []
    for name, column in columns.items():
        sink = pa.BufferOutputStream()
        table = pa.table({name: column})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        written.append(sink.getvalue().to_pybytes())
    return written


@st.composite
def arrow_streams(draw: st.DrawFn) -> bytes:
    """An Arrow stream in which some bytes or words are changed."""
    data = bytearray(draw(st.sampled_from(make_streams())))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data) - 1))
        if draw(st.booleans()):
            data[at] = draw(st.integers(0, 255))
        else:
            word = draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 5]))
            at -= at % 4
            data[at : at + 4] = word.to_bytes(4, "little")
    return bytes(data[: draw(st.sampled_from([len(data), len(data), len(data) - 1, len(data) // 2]))])


@fuzz(arrow_streams())
def test_tables(data: bytes) -> None:
    """A table that is let in can be read in full; any other stream is refused by session and client with a sentence."""
    kind, table = outcome(lambda: table_in(pa, data), InvalidRequest)
    assert outcome(lambda: _tables.table_of(data), BadReply)[0] == ("value" if kind == "value" else "BadReply")
    if kind == "value":
        assert table.equals(table_in(pa, data)) or "nan" in str(table.to_pydict())
        table.to_pydict()
