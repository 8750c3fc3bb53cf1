"""Tables as Arrow IPC streams: written from any object that holds columns, read back, and checked.

Each function gets the pyarrow of its caller: the session's or the client's. What comes in is validated in full,
because offsets that lead out of a buffer would crash the process that trusts them. That costs nothing for numbers,
and about a third of a millisecond per MB for texts. Nothing is ever unpickled: extension types that are not
registered keep their storage type, and versions of pyarrow that would run code for them (before 14.0.1) are refused.
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
    if _version(version) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise Unimplemented(
            "pyarrow {} unpickles what some streams hold: Arrow needs {} or newer".format(version, oldest)
        )


def _version(text: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


# ---- out -------------------------------------------------------------------------------------------------------


class Stream:
    """A table about to be written: `size` bytes, known before they are."""

    def __init__(self, pyarrow: Any, table: Any) -> None:
        self._pyarrow = pyarrow
        self._table = table
        counter = pyarrow.MockOutputStream()
        self._write(counter)
        self.size = int(counter.size())

    def write(self, memory: Any) -> None:
        """Write it to the beginning of `memory`, a writable buffer of `size` bytes or more."""
        self._write(self._pyarrow.FixedSizeBufferWriter(self._pyarrow.py_buffer(memory)))

    def _write(self, sink: Any) -> None:
        with self._pyarrow.ipc.new_stream(sink, self._table.schema) as writer:
            writer.write_table(self._table)


def stream_of(pyarrow: Any, value: Any) -> Stream:
    """The stream of a value that holds columns.

    Raises:
        InvalidRequest: it is none, or has columns that Arrow has no type for; says which.
    """
    check_version(pyarrow)
    try:
        return Stream(pyarrow, _table_of(pyarrow, value))
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise InvalidRequest("this {} cannot be a table of Arrow: {}".format(_kind(value), error)) from None


def _table_of(pyarrow: Any, value: Any) -> Any:
    if isinstance(value, pyarrow.Table):
        return value
    if isinstance(value, pyarrow.RecordBatch):
        return pyarrow.Table.from_batches([value])
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, (pandas.DataFrame, pandas.Series)):
        frame = value.to_frame() if isinstance(value, pandas.Series) else value
        return pyarrow.Table.from_pandas(frame)
    if hasattr(type(value), "__arrow_c_stream__"):
        return _imported(pyarrow, value)
    raise InvalidRequest("this {} is no table: {} is".format(_kind(value), _SOURCES))


def _imported(pyarrow: Any, value: Any) -> Any:
    """A table out of whatever speaks Arrow's C interface; one column of its own is a table of that."""
    try:
        return pyarrow.table(value)
    except (pyarrow.ArrowException, TypeError, ValueError):
        column = pyarrow.chunked_array(value)
        return pyarrow.table([column], names=[str(getattr(value, "name", "") or "0")])


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else "{}.{}".format(kind.__module__, kind.__name__)


# ---- in --------------------------------------------------------------------------------------------------------


def table_in(pyarrow: Any, memory: Any) -> Any:
    """The `pyarrow.Table` in a buffer that holds a whole stream; it stands on that memory, without a copy.

    Extension types that are not registered stay what they are stored as.

    Raises:
        InvalidRequest: it is no such stream, or says of its columns what is not so.
    """
    check_version(pyarrow)
    try:
        source = pyarrow.BufferReader(pyarrow.py_buffer(memory))
        with pyarrow.ipc.open_stream(source) as reader:
            table = reader.read_all()
        # Offsets that lead out of a buffer, or texts that are none, would bring the process down later.
        table.validate(full=True)
        left = source.size() - source.tell()
    except (pyarrow.ArrowException, ValueError, OSError, KeyError, IndexError) as error:
        raise InvalidRequest("the bytes are no Arrow IPC stream: {}".format(error)) from None
    if left:
        raise InvalidRequest("{} bytes stand behind the end of the Arrow IPC stream".format(left))
    return table


def converted(table: Any, into: str, module: Any) -> Any:
    """What a table becomes; `module` is pandas or polars, where `into` names it."""
    if into == "pandas":
        return table.to_pandas()
    return module.from_arrow(table) if into == "polars" else table
