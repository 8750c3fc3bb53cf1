"""Lists and removes things that this home keeps although nothing uses them."""

from __future__ import annotations

import logging
import time

from venvd_contract.errors import VenvdError
from venvd_contract.resources import Leftover
from venvd_controller.auto_venvs import AutoVenvs
from venvd_controller.images import Images
from venvd_engines.engine import Engine

log = logging.getLogger("venvd.controller")

AUTO_VENV = "unused venv"
"""The kind of a venv that its client did not name and that no backend uses."""
_INTERVAL = 600.0
"""Seconds between two searches for outdated leftovers."""


class Pruner:
    def __init__(self, engine: Engine, images: Images, auto_venvs: AutoVenvs) -> None:
        self._engine = engine
        self._auto_venvs = auto_venvs
        self._images = images
        self._next_search = 0.0

    def list_leftovers(self, *, everything: bool) -> list[Leftover]:
        """List what nothing uses. With `everything`, also list what the next build or start would use.

        Raises:
            Conflict: a build or start is under way.
        """
        venvs = [Leftover(AUTO_VENV, name, current=False) for name in self._auto_venvs.list_unused()]
        with self._images.lock_used_keys() as used:
            leftovers = [leftover for leftover in self._engine.leftovers(used) if everything or not leftover.current]
        return [*venvs, *leftovers]

    def prune(self, *, everything: bool) -> list[Leftover]:
        """Remove what `list_leftovers` lists, and return what was removed.

        Raises:
            Conflict: a build or start is under way.
        """
        with self._images.lock_used_keys():
            pass  # if a build or start is under way, this raises before anything is removed
        names = [name for name in self._auto_venvs.list_unused() if self._auto_venvs.delete(name)]
        with self._images.lock_used_keys() as used:
            leftovers = [leftover for leftover in self._engine.leftovers(used) if everything or not leftover.current]
            removed = [leftover for leftover in leftovers if self._remove(leftover)]
        return [*(Leftover(AUTO_VENV, name, current=False) for name in names), *removed]

    def _remove(self, leftover: Leftover) -> bool:
        try:
            self._engine.discard(leftover)
        except VenvdError as error:
            log.info("%s stays for now: %s", leftover.name, error.message)
            return False
        return True

    def remove_outdated(self) -> None:
        """From time to time, remove leftovers of earlier versions of venvd. Images of venvs expire by themselves."""
        if time.monotonic() < self._next_search or not self._images.is_idle():
            return
        self._next_search = time.monotonic() + _INTERVAL
        with self._images.lock_used_keys() as used:
            for leftover in self._engine.leftovers(used):
                if leftover.kind != "venv" and not leftover.current and self._remove(leftover):
                    log.info("removed %s: nothing uses it", leftover.name)
