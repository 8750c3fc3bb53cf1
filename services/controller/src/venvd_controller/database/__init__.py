"""What is wanted and what became of it, kept in a database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine, create_engine, event, exc
from sqlalchemy.orm import Session, sessionmaker

from venvd_contract.errors import InvalidRequest, Unavailable

_AWAY = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)


class Database:
    """Reads run side by side; changes run one after the other, since one controller owns the database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        self._writing = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Raises `Unavailable` where the database does not answer."""
        with _translated(), self._sessions() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction; what `after_commit` was given runs once it is kept."""
        with _translated(), self._writing, self._sessions.begin() as session:
            yield session
        for call in session.info.get("after", ()):
            call()

    def close(self) -> None:
        self.engine.dispose()


def after_commit(session: Session, call: Callable[[], object]) -> None:
    """Have something done once the transaction of `session` is kept, and not at all where it is not."""
    session.info.setdefault("after", []).append(call)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _AWAY as error:
        reason = getattr(error, "orig", None) or error
        raise Unavailable(f"the controller's database does not answer: {reason}") from None


def open_database(url: str) -> Database:
    """The database at a SQLAlchemy URL, brought to the newest schema.

    Raises:
        InvalidRequest: the URL is wrong, its driver is not installed, or a newer venvd made the schema.
        Unavailable: nothing answers there.
    """
    try:
        engine = create_engine(url, pool_pre_ping=True, pool_size=16, max_overflow=64)
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError) as error:
        raise InvalidRequest(f"VENVD_DATABASE_URL cannot be used: {error}") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    with _translated():
        migrate(engine)
    return Database(engine)


def _prepare_sqlite(connection: object, _: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def migrate(engine: Engine) -> None:
    """Run the migrations that this database has not seen.

    Raises:
        InvalidRequest: it has seen some that this program does not know.
    """
    config = Config()
    # the option goes through ConfigParser, which reads percent signs
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except (CommandError, exc.ProgrammingError) as error:
            raise InvalidRequest(
                f"the database {engine.url.render_as_string()} is a newer venvd's, or none of venvd's: {error}"
            ) from None
