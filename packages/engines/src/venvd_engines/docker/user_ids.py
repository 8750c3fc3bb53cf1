"""The user IDs of worker hosts. Each home has its own block, so no two backends share the kernel quotas of a user.

The kernel counts descriptors in flight, pages of pipes, and watches of inotify by user, across containers.
"""

from __future__ import annotations

import contextlib
import itertools
import threading

import docker.errors

from venvd_contract.errors import Unavailable
from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient

BLOCK = 1000
"""How many user IDs a home has. A block begins at a multiple of this, so homes with other bases do not overlap."""
LAST = 2**31 - 1
_MAPPED = 1 << 16
"""How many user IDs an engine in a user namespace has, as /etc/subuid usually grants them."""


class UserIds:
    """Claims a block by a volume that is named after its first ID: the engine makes only one volume of a name.

    If the volume exists already, the engine returns it with its labels, and they name the home that made it.
    """

    def __init__(self, client: DockerClient) -> None:
        self._client = client
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise `Unavailable` if the engine maps user IDs and lacks those of the first block."""
        options = " ".join(self._client.api.info().get("SecurityOptions") or ())
        if ("name=rootless" in options or "name=userns" in options) and self._base + BLOCK > _MAPPED:
            raise Unavailable(
                f"VENVD_UID_BASE is {self._client.settings.uid_base}: this Docker Engine maps user IDs (rootless or "
                f"userns-remap) and has those below {_MAPPED}: set it, for example, to 20000"
            )

    @property
    def _base(self) -> int:
        return -(-self._client.settings.uid_base // BLOCK) * BLOCK

    def claim(self) -> range:
        """Return the block of this home. If the home has none, claim a free one.

        Raises:
            Unavailable: no block is free.
        """
        base = self._base
        with self._lock:
            volumes = self._client.api.volumes({"label": [f"{labels.ROLE}={labels.USERS}"]})["Volumes"] or ()
            holders = {volume["Name"]: volume["Labels"].get(labels.HOME) for volume in volumes}
            own = [first for first in map(_read_first, self._find_own(holders)) if first >= base]
            free = (first for first in itertools.count(base, BLOCK) if _make_name(first) not in holders)
            for first in itertools.chain(sorted(own), free):
                if first + BLOCK > LAST:
                    raise Unavailable(f"no user IDs are free from VENVD_UID_BASE={base} on")
                volume = self._client.api.create_volume(_make_name(first), labels=self._client.labels(labels.USERS))
                if (volume["Labels"] or {}).get(labels.HOME) == self._client.settings.home_id:
                    return range(first, first + BLOCK)
        raise AssertionError("the numbers of blocks have no end")

    def release(self) -> None:
        """Give the blocks of this home back, unless it has launches."""
        launches = {"label": [*self._client.filters()["label"], labels.LAUNCH]}
        with self._lock:
            if self._client.api.containers(all=True, filters=launches):
                return
            for volume in self._client.api.volumes(self._client.filters(labels.USERS))["Volumes"] or ():
                with contextlib.suppress(docker.errors.APIError):
                    self._client.api.remove_volume(volume["Name"])

    def _find_own(self, holders: dict[str, str | None]) -> list[str]:
        return [name for name, home in holders.items() if home == self._client.settings.home_id]


def _make_name(first: int) -> str:
    return f"venvd-users-{first}"


def _read_first(name: str) -> int:
    return int(name.rpartition("-")[2])
