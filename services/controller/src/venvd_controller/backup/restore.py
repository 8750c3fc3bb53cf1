"""`venvd restore`: puts the state of a backup into a home without a controller, either all of it or nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Connection

from venvd_contract.errors import Conflict, InvalidRequest, Unavailable
from venvd_controller.backup import archive
from venvd_controller.backup.archive import ArchiveReader, Header
from venvd_controller.backup.create import HOME_FILES, NEEDED_FILES, Summary
from venvd_controller.backup.rows import VERSIONS, TableLoader, read_revision, reflect
from venvd_controller.database import connect, list_revisions, migrate, translate_errors
from venvd_controller.database.tables import Table
from venvd_controller.home import IDENTITY, OLDER_TOKENS, RESTORING, lock_home, write_file
from venvd_controller.settings import Settings

_STAGE = "restore.part"
_LOCK_SECONDS = 30
"""How long another user of the database may delay a restore."""


def restore_backup(settings: Settings, stream: BinaryIO, *, replace: bool = False) -> Summary:
    """Restore the state of a backup into the database that the settings name, and into the home.

    It prepares files and rows first. An interrupted restore leaves the state as it was. If it is interrupted in the
    last step, it leaves a mark, and no controller starts while the mark exists.

    Args:
        settings: the settings; they name the home and the database.
        stream: the backup.
        replace: whether to replace other state.

    Raises:
        Conflict: a controller runs, or there is other state.
        InvalidRequest: the file is not a whole backup, or a newer venvd made it.
        Unavailable: the home or the database cannot be used.
    """
    home = settings.home.absolute()
    stage = home / _STAGE
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock_home(home):
            shutil.rmtree(stage, ignore_errors=True)
            stage.mkdir(mode=0o700)
            try:
                return _Restore(settings, stage, replace).run(ArchiveReader(stream))
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise Unavailable(f"the home {home} cannot be used: {error.strerror or error}") from None


class _Restore:
    def __init__(self, settings: Settings, stage: Path, replace: bool) -> None:
        self._settings = settings
        self._home = settings.home.absolute()
        self._stage = stage
        self._replaces = replace or (self._home / RESTORING).exists()
        self._is_sqlite = settings.database_url is None
        self._staged_database = stage / settings.sqlite_file.name

    def run(self, reader: ArchiveReader) -> Summary:
        header = reader.header
        if header.revision not in list_revisions():
            raise InvalidRequest(
                f"the backup has the schema {header.revision} of venvd {header.version}, and this program knows those "
                f"up to {list_revisions()[0]}: restore it with venvd {header.version} or a newer one"
            )
        with self._open_database() as connection:
            if not self._is_sqlite:
                self._prepare_database(connection)
            migrate(connection, header.revision)
            loader = TableLoader(connection)
            files: list[str] = []
            for name, data in reader.read_files():
                if name.startswith(archive.TABLES):
                    loader.load(name.split("/")[1], data)
                else:
                    self._stage_file(name, data)
                    files.append(name)
            self._check_files(header, files)
            loader.finish()
            migrate(connection)
            revision = read_revision(connection)
            assert revision is not None
            if not self._is_sqlite:
                self._mark()
            connection.commit()
        if self._is_sqlite:
            self._mark()
        self._move_files()
        return Summary(header.home, connection.dialect.name, revision, dict(loader.counts), files)

    @contextlib.contextmanager
    def _open_database(self) -> Iterator[Connection]:
        if self._is_sqlite:
            self._refuse([self._settings.sqlite_file] if self._settings.sqlite_file.exists() else [])
        engine = connect(f"sqlite:///{self._staged_database}" if self._is_sqlite else self._settings.get_database_url())
        try:
            with translate_errors(), engine.connect() as connection:
                connection.begin()
                yield connection
        finally:
            engine.dispose()

    def _refuse(self, state: list[Path] | list[str]) -> None:
        if state and not self._replaces:
            raise Conflict(
                f"there is state already ({', '.join(map(str, state))}): restore into an empty home (VENVD_HOME) and "
                "database (VENVD_DATABASE_URL), or replace this state with --replace"
            )

    def _prepare_database(self, connection: Connection) -> None:
        """Drop the tables of the state that the backup replaces. They exist until the commit."""
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
        metadata = reflect(connection)
        others = metadata.tables.keys() - Table.metadata.tables.keys() - {VERSIONS}
        if others:
            raise Conflict(
                f"the database has tables of another program or a newer venvd ({', '.join(sorted(others))}): "
                "name an empty one with VENVD_DATABASE_URL"
            )
        self._refuse([f"{len(metadata.tables)} tables of the database"] if metadata.tables else [])
        metadata.drop_all(connection)

    def _stage_file(self, name: str, data: bytes) -> None:
        folder, _, file = name.partition("/")
        known = {archive.IDENTITY: IDENTITY, archive.HOME: HOME_FILES}.get(f"{folder}/", ())
        if file not in known:
            raise InvalidRequest(f'the backup has a file "{name}", which this program does not know')
        mode = 0o644 if file == "id" else 0o600
        with os.fdopen(os.open(self._stage / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as staged:
            staged.write(data + b"\n")
            staged.flush()
            os.fsync(staged.fileno())

    def _check_files(self, header: Header, files: list[str]) -> None:
        missing = [name for name in NEEDED_FILES if f"{archive.IDENTITY}{name}" not in files]
        if missing or self._read_staged("id") != header.home:
            raise InvalidRequest(f"the backup is damaged: its identity is not whole ({', '.join(missing) or 'id'})")
        given = self._settings.identity_dir
        if given is not None:
            if any(_read(given / name) != self._read_staged(name) for name in NEEDED_FILES):
                raise Conflict(
                    f"the identity in {given} (VENVD_IDENTITY_DIR) is not that of the backup: put there the files that "
                    f"`tar -xzf FILE {archive.IDENTITY}` extracts from it"
                )
            for name in IDENTITY:
                (self._stage / name).unlink(missing_ok=True)
        present = [self._home / name for name in (*IDENTITY, *HOME_FILES) if (self._stage / name).exists()]
        self._refuse([path for path in present if path.exists() and _read(path) != self._read_staged(path.name)])

    def _read_staged(self, name: str) -> str | None:
        return _read(self._stage / name)

    def _mark(self) -> None:
        write_file(self._home / RESTORING, "this state is incomplete", 0o600)
        _sync(self._home)

    def _move_files(self) -> None:
        """Put the prepared files in place. As the last step, remove the mark."""
        database = self._settings.sqlite_file
        for suffix in ("-wal", "-shm"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        if not self._is_sqlite and database.exists():
            database.rename(database.with_name(database.name + ".old"))  # a stale one would be mistaken for the state
        (self._home / OLDER_TOKENS).unlink(missing_ok=True)
        for path in sorted(self._stage.iterdir()):
            path.rename(self._home / path.name)
        _sync(self._home)
        (self._home / RESTORING).unlink()


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
