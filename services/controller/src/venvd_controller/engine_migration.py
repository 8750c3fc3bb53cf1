"""Chooses the engine of a home, and migrates a home that changes its engine."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from sqlalchemy import select, update

from venvd_contract.errors import Conflict, VenvdError
from venvd_controller.database import Database
from venvd_controller.database.tables import ImageRow, LaunchRow, OwnerRow, RuntimeRow, VenvRow
from venvd_engines.engine import Engine

log = logging.getLogger("venvd.controller")

CreateEngine = Callable[[str], tuple[Engine, str]]
"""Creates the engine of a name, which may be `auto`, and says why it chose this one."""


def choose_engine(name: str, database: Database, home_id: str, create_engine: CreateEngine) -> tuple[Engine, str]:
    """Create the engine of a home, and say why it is this one. With `auto`, a home keeps its engine.

    Raises:
        Conflict: the database belongs to another home.
        Unavailable: the engine does not answer.
    """
    previous = _find_previous_engine(database, home_id)
    if name == "auto" and previous is not None:
        engine, _ = create_engine(previous)
        return engine, f"{engine.name}: the backends of this home run there already"
    engine, reason = create_engine(name)
    if previous is not None and previous != engine.name:
        _destroy_launches(previous, create_engine)
        _reset_state(database)
        reason = f"{reason}; what this home had on the engine {previous} is built and started again"
    with database.write() as session:
        session.merge(OwnerRow(home=home_id, engine=engine.name))
    return engine, reason


def _find_previous_engine(database: Database, home_id: str) -> str | None:
    with database.read() as session:
        owner = session.scalars(select(OwnerRow)).first()
        empty = not any(session.scalars(select(table)).first() for table in (RuntimeRow, VenvRow, LaunchRow))
    if owner is not None and owner.home != home_id:
        raise Conflict(
            f"the database belongs to the home {owner.home}, and this one is {home_id}: "
            "name another with VENVD_DATABASE_URL, or the right home with VENVD_HOME"
        )
    return None if owner is None or empty else owner.engine


def _destroy_launches(engine_name: str, create_engine: CreateEngine) -> None:
    """Destroy all backends on the previous engine."""
    try:
        engine, _ = create_engine(engine_name)
        for owned in engine.list_owned():
            engine.destroy_owned(owned)
    except VenvdError as error:
        log.warning("the backends on the engine %s stay there: %s", engine_name, error.message)
        return
    with contextlib.suppress(VenvdError):
        engine.sweep()


def _reset_state(database: Database) -> None:
    """Keep the desired state, and forget the actual state of the previous engine."""
    with database.write() as session:
        session.execute(update(RuntimeRow).values(state="pending", resolved=None, base=None))
        session.execute(update(VenvRow).values(state="pending", image=None, lock=None, inputs=None))
        session.execute(update(LaunchRow).values(record=None, launch=None, launched_by=None, key=None, python=None))
        session.execute(update(LaunchRow).where(LaunchRow.wanted).values(state="pending"))
        for row in session.scalars(select(ImageRow)):
            session.delete(row)
