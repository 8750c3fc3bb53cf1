"""The rows of all tables, of any schema, as lines of JSON that each kind of database accepts."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from alembic.migration import MigrationContext
from sqlalchemy import JSON, Connection, LargeBinary, MetaData, Table, Text, cast, exc, func, select
from sqlalchemy.types import NullType

from venvd_contract.errors import InvalidRequest

VERSIONS = "alembic_version"
"""The table with the revision of the schema. The migrations write it."""
_BATCH_ROWS = 500
_CHUNK_BYTES = 1 << 20


def read_revision(connection: Connection) -> str | None:
    """Return the revision of a database's schema, or None if venvd has made no schema there."""
    return MigrationContext.configure(connection).get_current_revision()


def reflect(connection: Connection) -> MetaData:
    """Read the descriptions of the tables that exist."""
    metadata = MetaData()
    metadata.reflect(connection)
    return metadata


def dump_tables(connection: Connection) -> Iterator[tuple[str, int, bytes]]:
    """Iterate over the rows of all tables, as names of tables, numbers of rows, and their lines.

    It reads rows in batches. A table comes after those to which its foreign keys point.
    """
    for table in reflect(connection).sorted_tables:
        if table.name != VERSIONS:
            for count, lines in _dump_table(connection, table):
                yield table.name, count, lines


def _dump_table(connection: Connection, table: Table) -> Iterator[tuple[int, bytes]]:
    # read JSON as text: a JSON null is not an SQL NULL
    columns = [cast(each, Text).label(each.name) if isinstance(each.type, JSON) else each for each in table.c]
    query = select(*columns).order_by(*table.primary_key)
    names = table.c.keys()
    lines, size = list[bytes](), 0
    for row in connection.execute(query, execution_options={"yield_per": _BATCH_ROWS}):
        line = json.dumps(dict(zip(names, map(_encode, row), strict=True))).encode() + b"\n"
        lines.append(line)
        size += len(line)
        if size >= _CHUNK_BYTES:
            yield len(lines), b"".join(lines)
            lines, size = [], 0
    if lines:
        yield len(lines), b"".join(lines)


def _encode(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes | memoryview) else value


class TableLoader:
    """Inserts rows into the tables of a database that has the same schema and no rows."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tables = reflect(connection).tables
        self._is_postgresql = connection.dialect.name == "postgresql"
        self.counts: Counter[str] = Counter()
        for table in self._tables.values():
            for column in table.c:
                if isinstance(column.type, JSON):
                    column.type = NullType()  # the database takes the text

    def load(self, name: str, lines: bytes) -> None:
        """Insert rows.

        Raises:
            InvalidRequest: the rows do not fit the table.
        """
        table = self._tables.get(name)
        if table is None or name == VERSIONS:
            raise InvalidRequest(f'the backup has a table "{name}", which its schema has not')
        try:
            rows = [self._decode(table, line) for line in lines.splitlines()]
            self._connection.execute(table.insert(), rows)
        except (exc.DataError, exc.IntegrityError) as error:
            raise InvalidRequest(f'rows of the table "{name}" do not fit the database: {error.orig}') from None
        except ValueError as error:
            raise InvalidRequest(f'the table "{name}" of the backup is damaged: {error}') from None
        self.counts[name] += len(rows)

    def _decode(self, table: Table, line: bytes) -> dict[str, Any]:
        row = json.loads(line)
        if not isinstance(row, dict) or row.keys() != set(table.c.keys()):
            raise ValueError("a row has other columns than the table")
        return {name: self._convert(table.c[name].type, value) for name, value in row.items()}

    def _convert(self, kind: object, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if isinstance(kind, LargeBinary):
            return base64.b64decode(value)
        return value.replace("\0", "\ufffd") if self._is_postgresql else value  # its text cannot contain NUL

    def finish(self) -> None:
        """Make PostgreSQL continue its numbers of rows after the numbers of these rows."""
        for name in self.counts if self._is_postgresql else ():
            table = self._tables[name]
            for column in table.primary_key:
                find = select(func.pg_get_serial_sequence(f'"{name}"', column.name))
                sequence = self._connection.scalar(find)
                if sequence is not None:
                    self._connection.execute(select(func.setval(sequence, select(func.max(column)).scalar_subquery())))
