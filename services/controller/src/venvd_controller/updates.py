"""Backends with `update: rolling`: they take newer builds of their venvs, and newer servers, by themselves."""

from __future__ import annotations

import logging

from venvd_controller.backend_rows import find_newest
from venvd_controller.backends import Backends
from venvd_controller.database import Database
from venvd_engines.engine import Engine

log = logging.getLogger("venvd.controller")


class Updates:
    """Restarts backends that are outdated."""

    def __init__(self, database: Database, engine: Engine, backends: Backends) -> None:
        self._database = database
        self._engine = engine
        self._backends = backends

    def restart_next(self) -> None:
        """Restart the next backend with `update: rolling` that is outdated, once all others of its venv run."""
        rows = [row for row in self._backends.list_rows() if row.wanted and row.spec.get("update") == "rolling"]
        if not rows:
            return
        with self._database.read() as session:
            newest = find_newest(session, self._engine)
        busy = {row.venv for row in rows if row.state != "running"}
        for row in rows:
            if row.venv not in busy and newest.replaces_by_itself(row):
                log.info("%s: its build or its server is older than a start would give it; it is restarted", row.name)
                busy.add(row.venv)
                self._backends.update(row.name, pinned_key=None)
                self._backends.start_if_unchanged(row)
