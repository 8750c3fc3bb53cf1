"""Tables in and out of a session as Arrow IPC streams, with the pyarrow of its venv."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Optional

from venvd_contract import tables
from venvd_contract.errors import InvalidRequest, Unimplemented


def stream_of(value: Any) -> tables.Stream:
    """Return the Arrow stream of a value with columns.

    Raises:
        InvalidRequest: the value has no columns, or has one that Arrow has no type for.
        Unimplemented: the venv lacks pyarrow.
    """
    return tables.stream_of(import_needed("pyarrow"), value)


def check(into: Optional[str]) -> None:
    """Check that the venv has the packages to make a table of this kind.

    Raises:
        Unimplemented: the venv lacks one.
    """
    tables.check_version(import_needed("pyarrow"))
    if into in ("pandas", "polars"):
        import_needed(into)


def make_table(memory: Any, into: Optional[str]) -> Any:
    """Make a table of the bytes of an Arrow stream.

    Raises:
        InvalidRequest: the bytes are not a stream.
    """
    check(into)
    table = tables.table_in(import_needed("pyarrow"), memory)
    if into not in ("pandas", "polars"):
        return table
    try:
        return tables.convert(table, into, import_needed(into))
    except (TypeError, ValueError) as error:  # pyarrow's errors are among these
        raise InvalidRequest("{} cannot hold that table: {}".format(into, error)) from None


def import_needed(name: str) -> Any:
    """Import a module of the venv. The user chooses its version."""
    try:
        return sys.modules.get(name) or import_module(name)
    except ImportError:
        raise Unimplemented(
            "tables need {}, which this venv does not have: add it to the requirements".format(name)
        ) from None
