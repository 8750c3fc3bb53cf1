"""Tables of Arrow that come from a session and go there. pyarrow is an extra: only what is here needs it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from venvd.arrays import room
from venvd.errors import BadReply, InvalidRequest
from venvd_contract import tables


def table_of(memory: Any) -> Any:
    """The `pyarrow.Table` in memory into which a stream was read; it stands on that, without a copy.

    Raises:
        BadReply: it is no such stream.
    """
    try:
        return tables.table_in(_pyarrow(), memory)
    except InvalidRequest as error:
        raise BadReply(f"the backend sent no table: {error.message}") from None


def stream_of(value: Any) -> memoryview:
    """The stream of what holds columns.

    Raises:
        InvalidRequest: it holds none, or some that Arrow has no type for.
    """
    stream = tables.stream_of(_pyarrow(), value)
    memory = room(stream.size)
    stream.write(memory)
    return memory


def _pyarrow() -> Any:
    try:
        return import_module("pyarrow")
    except ImportError:
        raise InvalidRequest("tables need pyarrow in this program: pip install 'venvd[arrow]'") from None
