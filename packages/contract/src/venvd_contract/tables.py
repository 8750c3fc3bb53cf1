"""Tables as Arrow IPC streams: writes any object with columns, reads streams, and checks them.

Each function takes the pyarrow of its caller: the session's or the client's. It validates an incoming stream in full,
because offsets outside of a buffer would crash the process later. That takes no time for numbers, and about a third of
a millisecond per MB for texts. This module never unpickles: unregistered extension types keep their storage type, and
it refuses versions of pyarrow that would run code for them (before 14.0.1).
"""

from __future__ import annotations

import re
import sys
from typing import Any, Tuple

from venvd_contract.errors import InvalidRequest, Unimplemented

MEDIA_TYPE = "application/vnd.apache.arrow.stream"

_OLDEST = (14, 0, 1)
_SOURCES = "a pyarrow Table or RecordBatch, a pandas DataFrame or Series, or what has __arrow_c_stream__ (polars)"


def check_version(pyarrow: Any) -> None:
    """Check that this pyarrow never unpickles the contents of a stream.

    Raises:
        Unimplemented: it is too old.
    """
    version = str(pyarrow.__version__)
    if _parse_version(version) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise Unimplemented(
            "pyarrow {} unpickles the contents of some streams: tables need {} or newer".format(version, oldest)
        )


def _parse_version(text: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


# ---- out -------------------------------------------------------------------------------------------------------


class Stream:
    """A table that can be written as a stream of `size` bytes."""

    def __init__(self, pyarrow: Any, table: Any) -> None:
        self._pyarrow = pyarrow
        self._table = table
        counter = pyarrow.MockOutputStream()
        self._write(counter)
        self.size = int(counter.size())

    def write(self, memory: Any) -> None:
        """Write the stream to the beginning of `memory`, a writable buffer of at least `size` bytes."""
        self._write(self._pyarrow.FixedSizeBufferWriter(self._pyarrow.py_buffer(memory)))

    def _write(self, sink: Any) -> None:
        with self._pyarrow.ipc.new_stream(sink, self._table.schema) as writer:
            writer.write_table(self._table)


def stream_of(pyarrow: Any, value: Any) -> Stream:
    """Return the stream of a value with columns.

    Raises:
        InvalidRequest: the value has no columns, or a column has no Arrow type; the message names it.
    """
    check_version(pyarrow)
    try:
        return Stream(pyarrow, _make_table(pyarrow, value))
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise InvalidRequest("this {} cannot be a table of Arrow: {}".format(_type_name(value), error)) from None


def _make_table(pyarrow: Any, value: Any) -> Any:
    if isinstance(value, pyarrow.Table):
        return value
    if isinstance(value, pyarrow.RecordBatch):
        return pyarrow.Table.from_batches([value])
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, (pandas.DataFrame, pandas.Series)):
        frame = value.to_frame() if isinstance(value, pandas.Series) else value
        return pyarrow.Table.from_pandas(frame)
    if hasattr(type(value), "__arrow_c_stream__"):
        return _import_table(pyarrow, value)
    raise InvalidRequest("this {} is no table: {} is".format(_type_name(value), _SOURCES))


def _import_table(pyarrow: Any, value: Any) -> Any:
    """Make a table from an object with Arrow's C interface. A single column becomes a table of one column."""
    try:
        return pyarrow.table(value)
    except (pyarrow.ArrowException, TypeError, ValueError):
        column = pyarrow.chunked_array(value)
        return pyarrow.table([column], names=[str(getattr(value, "name", "") or "0")])


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else "{}.{}".format(kind.__module__, kind.__name__)


# ---- in --------------------------------------------------------------------------------------------------------


def table_in(pyarrow: Any, memory: Any) -> Any:
    """Return the `pyarrow.Table` in a buffer that holds a whole stream. The table uses that memory without a copy.

    Unregistered extension types keep their storage type.

    Raises:
        InvalidRequest: the buffer holds no stream, or a column is not valid.
    """
    check_version(pyarrow)
    try:
        source = pyarrow.BufferReader(pyarrow.py_buffer(memory))
        with pyarrow.ipc.open_stream(source) as reader:
            table = reader.read_all()
        # Offsets outside of a buffer, or invalid texts, would crash the process later.
        table.validate(full=True)
        left = source.size() - source.tell()
    except (pyarrow.ArrowException, ValueError, OSError, KeyError, IndexError) as error:
        raise InvalidRequest("the bytes are no Arrow IPC stream: {}".format(error)) from None
    if left:
        raise InvalidRequest("{} bytes stand behind the end of the Arrow IPC stream".format(left))
    return table


def convert(table: Any, into: str, module: Any) -> Any:
    """Convert a table to the type that `into` names; `module` is then pandas or polars."""
    if into == "pandas":
        return table.to_pandas()
    return module.from_arrow(table) if into == "polars" else table
