"""Makes Arrow tables from the bytes that a transport carries, and the other way round. pyarrow is an extra."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from venvd._arrays import allocate
from venvd.errors import BadReply, InvalidRequest
from venvd_contract import tables


def table_of(memory: Any) -> Any:
    """Return the `pyarrow.Table` of the Arrow stream in `memory`, without a copy.

    Raises:
        BadReply: `memory` does not contain an Arrow stream.
    """
    try:
        return tables.table_in(_import_pyarrow(), memory)
    except InvalidRequest as error:
        raise BadReply(f"the backend sent an invalid table: {error.message}") from None


def stream_of(value: Any) -> memoryview:
    """Return the Arrow stream of a table or data frame.

    Raises:
        InvalidRequest: `value` has no columns, or a column has no Arrow type.
    """
    stream = tables.stream_of(_import_pyarrow(), value)
    memory = allocate(stream.size)
    stream.write(memory)
    return memory


def _import_pyarrow() -> Any:
    try:
        return import_module("pyarrow")
    except ImportError:
        raise InvalidRequest("tables need pyarrow in this program: pip install 'venvd[arrow]'") from None
