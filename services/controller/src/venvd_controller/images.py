"""Images that were built, and when they may go: a while after the last venv and backend that used them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import select
from sqlalchemy.orm import Session

from venvd_contract.errors import Conflict, VenvdError
from venvd_controller.database import Database
from venvd_controller.database.tables import BackendRow, ImageRow, VenvRow
from venvd_controller.operations import Operations
from venvd_engines.engine import Engine

log = logging.getLogger("venvd.controller")


class Images:
    """Args: keep: seconds that an image stays after its last use, since what was changed is often changed back."""

    def __init__(self, database: Database, engine: Engine, operations: Operations, keep: float) -> None:
        self._database = database
        self._engine = engine
        self._operations = operations
        self._keep = keep
        self._users = 0
        self._lock = threading.Lock()

    @contextmanager
    def using(self) -> Iterator[None]:
        """Work that finds or makes images: none is removed meanwhile."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1

    def built(self, session: Session, key: str) -> None:
        """Note an image, in the transaction that makes it a venv's."""
        session.merge(ImageRow(key=key, unused_since=None))

    def release(self, key: str) -> None:
        """What used this image is gone for good: remove it now, where nothing else uses it."""
        with self._database.write() as session:
            row = session.get(ImageRow, key)
            if row is not None:
                row.unused_since = 0.0
        self.sweep()

    def idle(self) -> bool:
        """Whether no work is under way that finds or makes images, which are not in the rows yet."""
        return not self._users and not self._operations.targets()

    @contextmanager
    def alone(self) -> Iterator[set[str]]:
        """The keys that are in use, and none other comes to be used meanwhile.

        Raises:
            Conflict: work is under way.
        """
        with self._lock:
            if not self.idle():
                raise Conflict("builds or starts are under way (venvd operation list): try again once they are done")
            with self._database.read() as session:
                used = _used(session)
            yield used

    def sweep(self) -> None:
        """Remove the images that nobody has used for a while."""
        if self._operations.targets():
            return  # what they find and make is not in the rows yet
        for key in self._due():
            self._remove(key)

    def _due(self) -> list[str]:
        with self._database.write() as session:
            used = _used(session)
            due = []
            for row in session.scalars(select(ImageRow)):
                if row.key in used:
                    row.unused_since = None
                elif row.unused_since is None:
                    row.unused_since = time.time()
                elif time.time() - row.unused_since >= self._keep:
                    due.append(row.key)
        return due

    def _remove(self, key: str) -> None:
        with self._lock:
            if self._users:
                return
            try:
                self._engine.remove_image(key)
            except VenvdError as error:
                log.info("the image %s stays for now: %s", key, error.message)
                return
            with self._database.write() as session:
                session.delete(session.get_one(ImageRow, key))


def _used(session: Session) -> set[str]:
    venvs = {row.image["key"] for row in session.scalars(select(VenvRow)) if row.image}
    return venvs | {key for key in session.scalars(select(BackendRow.key)) if key}
