"""The database with the desired and the actual state."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, exc, inspect, select
from sqlalchemy.orm import Session, sessionmaker

from venvd_contract.errors import InvalidRequest, NotFound, Unavailable

Row = TypeVar("Row")
Result = TypeVar("Result")

_CLOSE_SECONDS = 10.0
_UNAVAILABLE = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)


class Database:
    """The database of one controller. Reads run in parallel, writes one after the other.

    Attributes:
        writes: how many transactions have ended; while it does not change, a query gives the same result.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.writes = 0
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        self._write_lock = threading.Lock()
        self._sessions_changed = threading.Condition()
        self._open_sessions = 0
        self._is_closed = False

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session to read.

        Raises:
            Unavailable: the database does not answer.
        """
        with translate_errors(), self._counted(), self._sessions() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction. After the commit, run the calls registered with `after_commit`.

        Raises:
            Unavailable: the database does not answer.
        """
        with translate_errors(), self._counted(), self._write_lock:
            try:
                with self._sessions.begin() as session:
                    yield session
            finally:
                self.writes += 1
        for call in session.info.get("after", ()):
            call()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._sessions_changed:
            if self._is_closed:
                raise Unavailable("the controller has closed its database")
            self._open_sessions += 1
        try:
            yield
        finally:
            with self._sessions_changed:
                self._open_sessions -= 1
                self._sessions_changed.notify_all()

    def close(self) -> None:
        """Close all connections. Sessions that are open have `_CLOSE_SECONDS` to end, and no others are opened.

        Another controller may lead now, so a thread that ends late must not write.
        """
        with self._sessions_changed:
            self._is_closed = True
            self._sessions_changed.wait_for(lambda: self._open_sessions == 0, _CLOSE_SECONDS)
        self.engine.dispose()


class Reading(Generic[Result]):
    """The result of a query. It is read again after a write. Callers share its rows, and must not change them.

    Args:
        read: the query.
    """

    def __init__(self, database: Database, read: Callable[[Session], Result]) -> None:
        self._database = database
        self._read = read
        self._found: tuple[int, Result] | None = None

    def get(self) -> Result:
        """Return the result.

        Raises:
            Unavailable: the database does not answer.
        """
        writes, cached = self._database.writes, self._found  # count a write that ends during the query as one after it
        if cached is None or cached[0] != writes:
            with self._database.read() as session:
                cached = self._found = writes, self._read(session)
        return cached[1]


def after_commit(session: Session, call: Callable[[], object]) -> None:
    """Run `call` after the transaction of `session` is committed. A rollback drops the call."""
    session.info.setdefault("after", []).append(call)


def get_row(session: Session, table: type[Row], kind: str, name: str) -> Row:
    """Read the row of a name.

    Raises:
        NotFound: there is no such row; the message has the most similar name that exists.
    """
    row = session.get(table, name)
    if row is None:
        (key,) = inspect(table).primary_key
        similar = difflib.get_close_matches(name[:80], list(session.scalars(select(key))), 1)
        raise NotFound(f'no {kind} "{name[:80]}"' + (f'; is "{similar[0]}" meant?' if similar else ""))
    return row


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn the errors of a database that does not answer into `Unavailable`."""
    try:
        yield
    except _UNAVAILABLE as error:
        reason = getattr(error, "orig", None) or error
        raise Unavailable(f"the controller's database does not answer: {reason}") from None


def open_database(url: str) -> Database:
    """Open the database at a SQLAlchemy URL and migrate it to the newest schema.

    Raises:
        InvalidRequest: the URL is wrong, its driver is not installed, or a newer venvd made the schema.
        Unavailable: the database does not answer.
    """
    engine = connect(url)
    with translate_errors(), engine.begin() as connection:
        migrate(connection)
    return Database(engine)


def connect(url: str) -> Engine:
    """Prepare connections to the database at a SQLAlchemy URL. Its schema does not matter.

    Raises:
        InvalidRequest: the URL is wrong, or its driver is not installed.
    """
    try:
        engine = create_engine(url, pool_pre_ping=True, pool_size=16, max_overflow=64)
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError) as error:
        raise InvalidRequest(f"VENVD_DATABASE_URL cannot be used: {error}") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    elif engine.dialect.name == "postgresql":
        event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _prepare_sqlite(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_postgresql(connection: object, _: object) -> None:
    """Let the server end the transaction of a controller whose machine is gone, before it blocks the next leader."""
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for setting, number in (("idle", 5), ("interval", 2), ("count", 3)):
        cursor.execute(f"SET tcp_keepalives_{setting} = {number}")
    cursor.close()
    connection.commit()  # type: ignore[attr-defined]


def migrate(connection: Connection, revision: str = "head") -> None:
    """Run those migrations up to a revision that the database does not have yet.

    Raises:
        InvalidRequest: the database has migrations that this program does not know.
    """
    config = _configure_migrations()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except (CommandError, exc.ProgrammingError) as error:
        raise InvalidRequest(
            f"the database {connection.engine.url.render_as_string()} is from a newer venvd, "
            f"or from another program: {error}"
        ) from None


def list_revisions() -> list[str]:
    """List the revisions of the schema that this program knows, newest first."""
    return [each.revision for each in ScriptDirectory.from_config(_configure_migrations()).walk_revisions()]


def _configure_migrations() -> Config:
    config = Config()
    # ConfigParser interprets percent signs
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config
