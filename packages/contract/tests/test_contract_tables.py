"""Arrow IPC streams, written and read with the pyarrow at hand."""

from __future__ import annotations

import types
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from venvd_contract import arrays, tables
from venvd_contract.errors import InvalidRequest, Unimplemented

SAMPLE = pa.table(
    {
        "texts": ["", "a", None, "☃" * 20],
        "lists": [[1, 2], [], None, [3]],
        "numbers": [0.5, 2.5, None, -1.0],
        "words": pa.array(["x", "y", "x", None]).dictionary_encode(),
    }
)


def written(value: Any) -> bytearray:
    stream = tables.stream_of(pa, value)
    memory = bytearray(stream.size)
    stream.write(memory)
    return memory


@pytest.mark.parametrize("value", [SAMPLE, pa.table({}), SAMPLE.slice(1, 2), pa.concat_tables([SAMPLE, SAMPLE])])
def test_a_table_comes_back(value: Any) -> None:
    """What is written is read as the same table, whatever its columns and pieces."""
    assert tables.table_in(pa, written(value)).equals(value)


def test_what_speaks_the_c_interface_is_a_table() -> None:
    """A batch, and any object with `__arrow_c_stream__`, columns of their own included, becomes a table."""
    batch = SAMPLE.to_batches()[0]

    class Foreign:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return SAMPLE.__arrow_c_stream__(requested_schema)

    for value in (batch, Foreign()):
        assert tables.table_in(pa, written(value)).schema == SAMPLE.schema
    assert tables.table_in(pa, written(pa.chunked_array([[1], [2]]))).to_pydict() == {"0": [1, 2]}


@pytest.mark.parametrize("value", [1, "text", [1, 2], {"a": [1]}, object()])
def test_what_has_no_columns_is_refused(value: object) -> None:
    """The error names the type, and what would do."""
    with pytest.raises(InvalidRequest, match=rf"this {type(value).__name__} is no table: a pyarrow Table"):
        tables.stream_of(pa, value)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, 10_000))
def test_damage_is_refused_or_harmless(changes: list[tuple[int, int]], cut: int) -> None:
    """A stream with any bytes changed or cut off is an error, or a table whose values can all be read."""
    data = written(SAMPLE)
    for at, byte in changes:
        data[at % len(data)] = byte
    try:
        table = tables.table_in(pa, data[: len(data) - cut % 64])
    except InvalidRequest:
        return
    table.validate(full=True)


@pytest.mark.parametrize("tail", [b"x", b"\0" * 64])
def test_nothing_may_stand_behind_the_end(tail: bytes) -> None:
    """Bytes behind the end of the stream are an error that counts them."""
    with pytest.raises(InvalidRequest, match=f"{len(tail)} bytes stand behind the end"):
        tables.table_in(pa, bytes(written(SAMPLE)) + tail)


@pytest.mark.parametrize(("version", "old"), [("14.0.0", True), ("9.0", True), ("14.0.1", False), ("26.0.1", False)])
def test_versions_that_would_unpickle_are_refused(version: str, old: bool) -> None:
    """Before 14.0.1 pyarrow unpickled extension types that a stream named."""
    module = types.SimpleNamespace(__version__=version)
    if old:
        with pytest.raises(Unimplemented, match=r"14\.0\.1 or newer"):
            tables.check_version(module)
    else:
        tables.check_version(module)


def test_unregistered_extension_types_run_nothing() -> None:
    """A stream that names one is read as what is stored, its pickled description untouched."""
    field = pa.field(
        "a",
        pa.int64(),
        metadata={
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": b"cos\nsystem\n(S'false'\ntR.",
        },
    )
    table = tables.table_in(pa, written(pa.table([[1, 2]], schema=pa.schema([field]))))
    assert table.schema.field("a").type == pa.int64()
    assert table.column("a").to_pylist() == [1, 2]


def test_into_is_checked() -> None:
    """What a table may become is named where something else is asked for."""
    with pytest.raises(InvalidRequest, match='"table" or "pandas" or "polars"'):
        arrays.table(8, "numpy")


def test_a_table_is_described_as_bytes() -> None:
    """Format and what it shall become stand beside the number of bytes, and nothing else is taken for a table."""
    header = arrays.table(300, "pandas")
    assert arrays.read_header(header.fields()) == header
    assert arrays.read_header(arrays.header("<f8", [3]).fields()).format is None
    for wrong in ({"dtype": "<f8"}, {"shape": [3, 100]}, {"format": "csv"}, {"format": None}):
        with pytest.raises(InvalidRequest):
            arrays.read_header({**header.fields(), **wrong})
