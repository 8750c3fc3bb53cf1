"""Which process of a run takes which test file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


class FolderScheduling(LoadFileScheduling):
    """Gives files one by one, and keeps a process in its folder: what the files of a folder share is made once.

    A process whose folder is done takes the next folder that has none, and then helps where files are left.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        scope = self._choose(node)
        self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _choose(self, node: WorkerController) -> str:
        folders = {other: _folder(next(reversed(units))) for other, units in self.assigned_work.items() if units}
        taken = set(folders.values())
        wishes: tuple[Callable[[str], bool], ...] = (
            lambda file: _folder(file) == folders.get(node),
            lambda file: _folder(file) not in taken,
            lambda _: True,
        )
        return next(file for wish in wishes for file in self.workqueue if wish(file))


def _folder(file: str) -> str:
    return str(PurePosixPath(file).parent)
