"""Tables in and out of a session as Arrow IPC streams, with the pyarrow of its venv."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Optional

from venvd_contract import tables
from venvd_contract.errors import InvalidRequest, Unimplemented


def stream_of(value: Any) -> tables.Stream:
    """The stream of a value that holds columns.

    Raises:
        InvalidRequest: it holds none, or some that Arrow has no type for.
        Unimplemented: the venv has no pyarrow.
    """
    return tables.stream_of(import_needed("pyarrow"), value)


def check(into: Optional[str]) -> None:
    """Check that the venv has the packages to make a table of this kind.

    Raises:
        Unimplemented: it lacks one.
    """
    tables.check_version(import_needed("pyarrow"))
    if into in ("pandas", "polars"):
        import_needed(into)


def make_table(memory: Any, into: Optional[str]) -> Any:
    """Make the table in a stream of bytes.

    Raises:
        InvalidRequest: the bytes are no stream.
    """
    check(into)
    table = tables.table_in(import_needed("pyarrow"), memory)
    if into not in ("pandas", "polars"):
        return table
    try:
        return tables.convert(table, into, import_needed(into))
    except (TypeError, ValueError) as error:  # those of pyarrow among them
        raise InvalidRequest("{} cannot hold that table: {}".format(into, error)) from None


def import_needed(name: str) -> Any:
    """Import a module of the venv: the user's own, in any version."""
    try:
        return sys.modules.get(name) or import_module(name)
    except ImportError:
        raise Unimplemented(
            "tables need {}, which this venv does not have: add it to the requirements".format(name)
        ) from None
