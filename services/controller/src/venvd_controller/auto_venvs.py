"""Venvs that their clients did not name, such as those of `venvd.backend()`. Unused ones are deleted."""

from __future__ import annotations

import logging
import re
import time

from sqlalchemy import select

from venvd_contract.errors import InUse, NotFound
from venvd_controller.database import Database
from venvd_controller.database.tables import LaunchRow, VenvRow
from venvd_controller.venvs import Venvs

log = logging.getLogger("venvd.controller")

_NAME = re.compile(r"auto-[0-9a-f]{12}")
_BUILDING = frozenset({"pending", "building"})


class AutoVenvs:
    """Finds and deletes the venvs with made-up names that no backend uses.

    Args:
        keep: seconds that such a venv stays after its last use; 0 for no end.
    """

    def __init__(self, database: Database, venvs: Venvs, keep: float) -> None:
        self._database = database
        self._venvs = venvs
        self._keep = keep

    def list_unused(self) -> list[str]:
        """List the names of such venvs that no backend uses."""
        with self._database.read() as session:
            used = set(session.scalars(select(LaunchRow.venv)))
            rows = session.scalars(select(VenvRow).where(VenvRow.name.startswith("auto-")).order_by(VenvRow.name))
            return [row.name for row in rows if row.name not in used and _is_disposable(row)]

    def delete(self, name: str) -> bool:
        """Delete a venv, and its image if nothing else uses that. Return whether the venv is gone."""
        try:
            self._venvs.delete(name)
        except NotFound:
            return True
        except InUse:
            return False
        return True

    def delete_expired(self) -> None:
        """Delete the venvs that were unused for too long."""
        for name in self._list_expired() if self._keep else ():
            if self.delete(name):
                log.info("removed the venv %s: no backend used it for %g s", name, self._keep)

    def _list_expired(self) -> list[str]:
        unused = set(self.list_unused())
        with self._database.read() as session:
            rows = session.scalars(select(VenvRow).where(VenvRow.name.startswith("auto-"))).all()
        changed = [row.name for row in rows if (row.name in unused) == (row.unused_since is None)]
        if changed:
            self._write_use(changed, unused)
        now = time.time()
        unused_since = {row.name: row.unused_since for row in rows if row.name in unused}
        return [name for name, since in unused_since.items() if since is not None and now - since >= self._keep]

    def _write_use(self, names: list[str], unused: set[str]) -> None:
        with self._database.write() as session:
            for row in session.scalars(select(VenvRow).where(VenvRow.name.in_(names))):
                row.unused_since = time.time() if row.name in unused else None


def _is_disposable(row: VenvRow) -> bool:
    return _NAME.fullmatch(row.name) is not None and not row.declared and row.state not in _BUILDING
