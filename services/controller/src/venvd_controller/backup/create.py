"""`venvd backup`: copies the state of a home into one file, also while its controller runs."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Connection

from venvd_contract.errors import Conflict, InvalidRequest, NotFound, Unavailable
from venvd_controller import __version__
from venvd_controller.backup import archive
from venvd_controller.backup.archive import ArchiveWriter, Header
from venvd_controller.backup.rows import dump_tables, read_revision
from venvd_controller.clock import format_time
from venvd_controller.database import connect, list_revisions, translate_errors
from venvd_controller.home import IDENTITY, OLDER_TOKENS, RESTORING
from venvd_controller.manifest_sync import DEFAULT_PATH
from venvd_controller.settings import Settings

HOME_FILES = (OLDER_TOKENS, str(DEFAULT_PATH))
NEEDED_FILES = ("id", "secret")


@dataclass(frozen=True)
class Summary:
    """What a backup or a restore has copied."""

    home: str
    """The ID of the home."""
    database: str
    """`sqlite` or `postgresql`."""
    revision: str
    """The revision of the schema."""
    rows: dict[str, int]
    """The number of rows of each table."""
    files: list[str]


@contextlib.contextmanager
def create_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that only its owner may read. It gets its name when the block has ended without an error.

    Raises:
        Conflict: the file exists.
        Unavailable: the file cannot be written.
    """
    if path.exists():
        raise Conflict(f"{path} exists: name another file, or remove it first")
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def create_backup(settings: Settings, stream: BinaryIO) -> Summary:
    """Write the state of a home to a stream: its files, and all rows as of one moment.

    Raises:
        NotFound: the home has no state.
        Conflict: the database is of another home, or a restore into the home did not end.
        InvalidRequest: the database is of a newer venvd.
        Unavailable: the database does not answer.
    """
    home = settings.home.absolute()
    if (home / RESTORING).exists():
        raise Conflict(f"a restore into the home {home} did not end: run it again first")
    files = _read_files(home, settings.identity_dir)
    if settings.database_url is None and not settings.sqlite_file.exists():
        raise NotFound(
            f"the home {home} has no database {settings.sqlite_file.name}: VENVD_HOME names the home of the "
            "controller, and VENVD_DATABASE_URL its PostgreSQL"
        )
    with _open_snapshot(settings.get_database_url()) as connection:
        home_id = files[f"{archive.IDENTITY}id"].decode()
        revision = _check_database(connection, home_id)
        header = Header(archive.FORMAT, __version__, revision, home_id, format_time(datetime.now(UTC)))
        writer = ArchiveWriter(stream, header)
        for name, data in files.items():
            writer.add(name, data)
        chunks: Counter[str] = Counter()
        rows: Counter[str] = Counter()
        for table, count, lines in dump_tables(connection):
            chunks[table] += 1
            rows[table] += count
            writer.add(f"{archive.TABLES}{table}/{chunks[table]:06}.jsonl", lines)
        writer.close()
    return Summary(home_id, connection.dialect.name, revision, dict(rows), list(files))


def _read_files(home: Path, identity: Path | None) -> dict[str, bytes]:
    """Read the files of a home. None of them changes between the first and the last one."""
    before: dict[str, bytes] = {}
    while True:
        files = _read_files_once(home, identity or home)
        if files == before:
            return files
        before = files


def _read_files_once(home: Path, identity: Path) -> dict[str, bytes]:
    sources = {f"{archive.IDENTITY}{name}": identity / name for name in IDENTITY}
    sources |= {f"{archive.HOME}{name}": home / name for name in HOME_FILES}
    try:
        files = {name: path.read_bytes().strip() for name, path in sources.items() if path.is_file()}
    except OSError as error:
        raise Unavailable(f"the home {home} cannot be read: {error.strerror}: {error.filename}") from None
    for name in NEEDED_FILES:
        if not files.get(f"{archive.IDENTITY}{name}"):
            raise NotFound(f"{identity} is no home of a controller: it has no {name}; VENVD_HOME names the home")
    return files


@contextlib.contextmanager
def _open_snapshot(url: str) -> Iterator[Connection]:
    """Open a transaction that reads, and sees the database as of its beginning."""
    engine = connect(url)
    try:
        with translate_errors(), engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            else:
                connection.exec_driver_sql("BEGIN")  # sqlite3 begins no transaction by itself before a SELECT
            yield connection
    finally:
        engine.dispose()


def _check_database(connection: Connection, home_id: str) -> str:
    revision = read_revision(connection)
    if revision is None:
        raise NotFound("the database has no state of venvd: no controller has used it yet")
    if revision not in list_revisions():
        raise InvalidRequest(f"the database has the schema {revision} of a newer venvd: use its program")
    owner = connection.exec_driver_sql("SELECT home FROM owner").scalar()
    if owner not in {None, home_id}:
        raise Conflict(
            f"the database belongs to the home {owner}, and this one is {home_id}: "
            "name another with VENVD_DATABASE_URL, or the right home with VENVD_HOME"
        )
    return revision
