"""Whose a database is, and what happens where a home goes over to another engine."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from sqlalchemy import select, update

from venvd_contract.errors import Conflict, VenvdError
from venvd_controller.database import Database
from venvd_controller.database.tables import BackendRow, ImageRow, OwnerRow, RuntimeRow, VenvRow
from venvd_engines.engine import Engine

log = logging.getLogger("venvd.controller")

Choose = Callable[[str], tuple[Engine, str]]


def choose_engine(wanted: str, database: Database, home_id: str, choose: Choose) -> tuple[Engine, str]:
    """The engine of a home, and why it is this one: with `auto` the one that it has used so far.

    Raises:
        Conflict: the database is another home's.
        Unavailable: the engine does not answer.
    """
    before = _engine_before(database, home_id)
    if wanted == "auto" and before is not None:
        engine, reason = choose(before)
        return engine, f"{reason.removesuffix(': asked for')}: what runs from this home is there already"
    engine, reason = choose(wanted)
    if before is not None and before != engine.name:
        _leave(before, choose)
        _begin_anew(database)
        reason = f"{reason}; what this home had on the engine {before} is made anew"
    _note(database, home_id, engine.name)
    return engine, reason


def _engine_before(database: Database, home_id: str) -> str | None:
    with database.read() as session:
        owner = session.scalars(select(OwnerRow)).first()
        empty = not any(session.scalars(select(table)).first() for table in (RuntimeRow, VenvRow, BackendRow))
    if owner is not None and owner.home != home_id:
        raise Conflict(
            f"the database belongs to the home {owner.home}, and this one is {home_id}: "
            "name another with VENVD_DATABASE_URL, or the right home with VENVD_HOME"
        )
    return None if owner is None or empty else owner.engine


def _note(database: Database, home_id: str, engine: str) -> None:
    with database.write() as session:
        session.merge(OwnerRow(home=home_id, engine=engine))


def _leave(engine_name: str, choose: Choose) -> None:
    """End what runs on the engine that the home used before."""
    try:
        engine, _ = choose(engine_name)
        for owned in engine.list_owned():
            engine.destroy_owned(owned)
    except VenvdError as error:
        log.warning("what runs on the engine %s stays there: %s", engine_name, error.message)
        return
    with contextlib.suppress(VenvdError):
        engine.sweep()


def _begin_anew(database: Database) -> None:
    """What was wanted stays wanted; nothing of it is there on the new engine."""
    with database.write() as session:
        session.execute(update(RuntimeRow).values(state="pending", resolved=None, base=None))
        session.execute(update(VenvRow).values(state="pending", image=None, lock=None, inputs=None))
        gone = {"record": None, "launch": None, "launched_by": None, "key": None, "python": None}
        session.execute(update(BackendRow).values(**gone))
        session.execute(update(BackendRow).where(BackendRow.wanted).values(state="pending"))
        for row in session.scalars(select(ImageRow)):
            session.delete(row)
