"""Keeps the objects that clients refer to by handles.

A request may carry a `lease` in seconds. The session frees the handles that its call makes after so long without use,
and every use renews the lease. Time in which the session runs a call does not count, because no client can use a
handle then. The session frees handles between calls. A request without a lease gets the backend's. Without a lease, or
with one of 0, a handle lives as long as its session.
"""

from __future__ import annotations

import sys
from binascii import hexlify
from os import urandom
from time import monotonic
from typing import Any, Dict, Iterable, List, NamedTuple, Optional

from venvd_contract.errors import HandleNotFound, LimitExceeded
from venvd_worker.session.tracebacks import class_name

_RANDOM_BYTES = 16


class _Held(NamedTuple):
    value: Any
    since: float


class _Lease(NamedTuple):
    seconds: float
    end: float
    """When the lease ends, by a clock that stops while calls run."""


class Handles:
    """Keeps objects under unguessable names.

    Attributes:
        most: the largest number of handles; None for no limit.
        usual_lease: the lease of handles that a call without a lease makes; None for no lease.
        held: the objects by handle.
        leases: the leases of those handles that have one.
        lease: seconds of the lease that new handles get; None for no lease.
    """

    def __init__(self) -> None:
        self.most: Optional[int] = None
        self.usual_lease: Optional[float] = None
        self.held: Dict[str, _Held] = {}
        self.leases: Dict[str, _Lease] = {}
        self._busy = 0.0
        self.lease: Optional[float] = None

    def hold(self, value: Any) -> str:
        """Return a new handle of `value`.

        Raises:
            LimitExceeded: the session has as many handles as it may have.
        """
        if self.most is not None and len(self.held) >= self.most:
            raise LimitExceeded("the session holds {} handles, which is its limit: dispose some".format(self.most))
        name = hexlify(urandom(_RANDOM_BYTES)).decode()
        self.held[name] = _Held(value, monotonic())
        if self.lease is not None:
            self.leases[name] = _Lease(self.lease, self._now() + self.lease)
        return name

    def find(self, name: str) -> Any:
        """Return the object behind a handle, and renew the lease of the handle.

        Raises:
            HandleNotFound: the session has freed the handle, or never made it.
        """
        held = self.held.get(name)
        if held is None:
            raise HandleNotFound('there is no handle "{}" in this session'.format(name[:80]))
        if self.leases:
            self._renew(name)
        return held.value

    def drop(self, names: Iterable[str]) -> None:
        """Free handles. A name without a handle is not an error."""
        for name in names:
            self.held.pop(name, None)
            self.leases.pop(name, None)

    # ---- leases

    def extend_leases(self, seconds: float) -> None:
        """Extend all leases by the time that a call took, because no client could use a handle meanwhile."""
        self._busy += seconds

    def expire(self) -> Optional[float]:
        """Free handles whose lease has ended. Return the seconds until the next lease ends, or None without leases."""
        if not self.leases:
            return None
        now = self._now()
        self.drop([name for name, lease in self.leases.items() if lease.end <= now])
        return min((lease.end - now for lease in self.leases.values()), default=None)

    def _now(self) -> float:
        """Read the clock of the leases."""
        return monotonic() - self._busy

    def _renew(self, name: str) -> None:
        lease = self.leases.get(name)
        if lease is not None:
            self.leases[name] = lease._replace(end=self._now() + lease.seconds)

    def _describe_lease(self, name: str) -> Dict[str, float]:
        lease = self.leases.get(name)
        return {} if lease is None else {"leaseSeconds": round(max(0.0, lease.end - self._now()), 3)}

    def list(self) -> List[Dict[str, Any]]:
        """Return a `HandleInfo` for each handle, oldest first."""
        now = monotonic()
        return [
            {
                "handleId": name,
                "typeName": class_name(type(held.value)),
                "sizeBytes": size(held.value),
                "ageSeconds": round(now - held.since, 3),
                **self._describe_lease(name),
            }
            for name, held in list(self.held.items())
        ]


def size(value: Any) -> int:
    """Estimate the bytes of an object, with the data of a numpy array, but without objects that it refers to."""
    try:
        object_bytes = sys.getsizeof(value, 0)
        data_bytes = getattr(value, "nbytes", 0) if type(value).__module__.startswith("numpy") else 0
    except Exception:  # noqa: BLE001 - the user's __sizeof__ may raise anything
        return 0
    return max(object_bytes, data_bytes if type(data_bytes) is int else 0)
