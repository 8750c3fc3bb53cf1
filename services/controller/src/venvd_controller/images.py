"""Built images. An image is removed a while after the last venv or backend that used it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from venvd_contract.errors import Conflict, VenvdError
from venvd_controller.database import Database
from venvd_controller.database.tables import ImageRow, LaunchRow, VenvRow
from venvd_controller.operations import Operations
from venvd_engines.engine import Engine

log = logging.getLogger("venvd.controller")


class Images:
    """Decides when images may be removed.

    Args:
        keep: seconds that an image stays after its last use, since changes to venvs are often taken back.
    """

    def __init__(self, database: Database, engine: Engine, operations: Operations, keep: float) -> None:
        self._database = database
        self._engine = engine
        self._operations = operations
        self._keep = keep
        self._holders = 0
        self._lock = threading.Lock()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep every image while the caller finds or builds one."""
        with self._lock:
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1

    def record_build(self, session: Session, key: str) -> None:
        """Note a built image, in the transaction that assigns it to a venv."""
        session.merge(ImageRow(key=key, unused_since=None))

    def remove_if_unused(self, key: str) -> None:
        """Remove an image now if nothing uses it any more."""
        with self._database.write() as session:
            row = session.get(ImageRow, key)
            if row is not None:
                row.unused_since = 0.0
        self.remove_expired()

    def is_idle(self) -> bool:
        """Return whether no build or start is under way. The images of these are not in the database yet."""
        return not self._holders and not self._operations.list_active_targets()

    @contextmanager
    def lock_used_keys(self) -> Iterator[set[str]]:
        """Yield the keys in use. No build or start adds one until the end of the block.

        Raises:
            Conflict: a build or start is under way.
        """
        with self._lock:
            if not self.is_idle():
                raise Conflict("builds or starts are under way (venvd operation list): try again when they have ended")
            with self._database.read() as session:
                used = _list_used_keys(session)
            yield used

    def remove_expired(self) -> None:
        """Remove the images that were unused for too long."""
        if self._operations.list_active_targets():
            return  # the images of operations are not in the database yet
        for key in self._list_expired():
            self._remove(key)

    def _list_expired(self) -> list[str]:
        with self._database.write() as session:
            used = _list_used_keys(session)
            expired = []
            for row in session.scalars(select(ImageRow)):
                if row.key in used:
                    row.unused_since = None
                elif row.unused_since is None:
                    row.unused_since = time.time()
                elif time.time() - row.unused_since >= self._keep:
                    expired.append(row.key)
        return expired

    def _remove(self, key: str) -> None:
        with self._lock:
            if self._holders:
                return
            try:
                self._engine.remove_image(key)
            except VenvdError as error:
                log.info("the image %s stays for now: %s", key, error.message)
                return
            with self._database.write() as session:
                session.execute(delete(ImageRow).where(ImageRow.key == key))  # another thread may have removed it too


def _list_used_keys(session: Session) -> set[str]:
    venvs = {row.image["key"] for row in session.scalars(select(VenvRow)) if row.image}
    row = LaunchRow
    columns = (row.key, row.previous_key, row.pinned_key, row.wanted_key, row.proven_key)
    return venvs | {key for keys in session.execute(select(*columns)) for key in keys if key}
