"""What this home keeps and nothing uses: told, removed on request, and what is out of date removed as time goes by."""

from __future__ import annotations

import logging
import time

from venvd_contract.errors import VenvdError
from venvd_contract.resources import Leftover
from venvd_controller.images import Images
from venvd_engines.engine import Engine

log = logging.getLogger("venvd.controller")

_EVERY = 600.0
"""Seconds between two looks for what is out of date."""


class Pruner:
    def __init__(self, engine: Engine, images: Images) -> None:
        self._engine = engine
        self._images = images
        self._next = 0.0

    def leftovers(self, *, everything: bool) -> list[Leftover]:
        """What nothing uses; with `everything`, also what the next build or start would use.

        Raises:
            Conflict: work is under way, and what it uses is not known yet.
        """
        with self._images.alone() as used:
            found = self._engine.leftovers(used)
            return [one for one in found if everything or not one.current]

    def prune(self, *, everything: bool) -> list[Leftover]:
        """Remove what `leftovers` tells; what was removed.

        Raises:
            Conflict: work is under way.
        """
        with self._images.alone() as used:
            return [one for one in self._engine.leftovers(used) if (everything or not one.current) and self._gone(one)]

    def _gone(self, leftover: Leftover) -> bool:
        try:
            self._engine.discard(leftover)
        except VenvdError as error:
            log.info("%s stays for now: %s", leftover.name, error.message)
            return False
        return True

    def turn(self) -> None:
        """Remove what earlier versions of venvd left; images of venvs have their own time to go."""
        if time.monotonic() < self._next or not self._images.idle():
            return
        self._next = time.monotonic() + _EVERY
        with self._images.alone() as used:
            for one in self._engine.leftovers(used):
                if one.kind != "venv" and not one.current and self._gone(one):
                    log.info("nothing uses %s any more: it is removed", one.name)
