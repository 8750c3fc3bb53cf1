"""Leader election: of several processes, the holder of a Lease leads. The rules and times are those of client-go.

The holder renews the Lease. Another process takes the Lease once it has seen no renewal for `LEASE_SECONDS`. Each
process measures this by its own monotonic clock, so the clocks of two machines need not agree.
"""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import Pod
from lightkube.types import PatchType

from venvd_contract.errors import Conflict, NotFound
from venvd_engines.engine import EngineSettings
from venvd_engines.kubernetes import labels
from venvd_engines.kubernetes.cluster import Cluster, translate_errors

LEASE_SECONDS = 15
"""Another process takes the Lease when it has seen no renewal for this long."""
RENEW_SECONDS = 10.0
"""The holder leads for this long after the start of its last renewal. Its last requests then have time to arrive."""
RETRY_SECONDS = 2.0
"""Pause of the holder between two renewals."""
LOOK_SECONDS = 1.0
"""Longest pause of the others between two looks at the Lease."""
_ANSWER_SECONDS = 3.0
ANOTHER = "another controller leads"
"""The reason of a process that waits for the end of another one's Lease."""


@dataclass(frozen=True)
class Standing:
    """The result of one look at the Lease.

    Attributes:
        until: the monotonic time until which this process leads; None if it does not.
        reason: why it does not lead.
        pause: seconds until the next look.
    """

    until: float | None
    reason: str = ""
    pause: float = RETRY_SECONDS


class Election:
    """One process's part in the election.

    Args:
        name: name of the Lease.
        pod: the pod of this process; the pod has a label while the process leads.
    """

    def __init__(self, settings: EngineSettings, name: str, pod: str | None = None) -> None:
        self._cluster = Cluster(settings, _ANSWER_SECONDS)
        self._name = name
        self._pod = pod
        self.identity = f"{pod or socket.gethostname()}_{self._cluster.instance}"
        self._seen: dict[str, Any] | None = None
        self._seen_at = 0.0

    def close(self) -> None:
        self._cluster.close()

    @translate_errors("take the Lease")
    def take(self) -> Standing:
        """Take the Lease if it is free, or renew it.

        Raises:
            Unavailable: the API server does not answer.
            Forbidden: the service account has no rights on Leases.
        """
        began = time.monotonic()  # a renewal counts from the time before it was sent
        lease = self._find()
        spec = lease.get("spec", {})
        if spec != self._seen:
            self._seen, self._seen_at = spec, time.monotonic()
        if spec.get("holderIdentity") not in {None, "", self.identity}:
            seconds_left = self._seen_at + spec.get("leaseDurationSeconds", LEASE_SECONDS) - time.monotonic()
            if seconds_left > 0:
                return Standing(None, ANOTHER, min(seconds_left, LOOK_SECONDS))
        try:
            self._write({**lease, "spec": self._claim(spec)})
        except Conflict:  # another process was faster
            return Standing(None, ANOTHER, LOOK_SECONDS)
        return Standing(began + RENEW_SECONDS)

    def _claim(self, spec: dict[str, Any]) -> dict[str, Any]:
        moment = _read_clock()
        claim = {**spec, "holderIdentity": self.identity, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": moment}
        if spec.get("holderIdentity") != self.identity:
            claim["acquireTime"] = moment
            claim["leaseTransitions"] = spec.get("leaseTransitions", -1) + 1
        return claim

    def _find(self) -> dict[str, Any]:
        """Read the Lease. If there is none, return the metadata of a new one."""
        lease = self._cluster.find(Lease, self._name)
        if lease is not None:
            content: dict[str, Any] = lease.to_dict()
            return content
        return {"metadata": self._cluster.make_metadata(self._name, self._cluster.labels("lease"))}

    @translate_errors("write the Lease")
    def _write(self, content: dict[str, Any]) -> None:
        """Write the Lease. The API server refuses this if another process has written meanwhile."""
        client: Any = self._cluster.client
        write = client.replace if "resourceVersion" in content["metadata"] else client.create
        written = write(Lease.from_dict(content))
        self._seen, self._seen_at = written.to_dict()["spec"], time.monotonic()

    @translate_errors("release the Lease")
    def release(self) -> None:
        """Give the Lease up if this process holds it, so that another one takes it at once."""
        lease = self._find()
        if lease.get("spec", {}).get("holderIdentity") != self.identity:
            return
        moment = _read_clock()
        free = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": moment, "acquireTime": moment}
        with contextlib.suppress(Conflict):
            self._write({**lease, "spec": {**lease["spec"], **free}})

    @translate_errors("label the pods")
    def label(self, *, leads: bool) -> None:
        """Label the pod of this process, and no other, as the leader's; or remove that label from it."""
        if self._pod is None:
            return
        if leads:
            for pod in self._cluster.client.list(Pod, labels={labels.LEADER: self._name}):
                if pod.metadata is not None and pod.metadata.name != self._pod:
                    with contextlib.suppress(NotFound):
                        self._patch_label(str(pod.metadata.name), None)
        self._patch_label(self._pod, self._name if leads else None)

    @translate_errors("label a pod")
    def _patch_label(self, pod: str, value: str | None) -> None:
        content = {"metadata": {"labels": {labels.LEADER: value}}}
        self._cluster.client.patch(Pod, pod, content, patch_type=PatchType.MERGE)


def _read_clock() -> str:
    """Read the time as the API server writes it, with microseconds."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=max(1, moment.microsecond)).isoformat(timespec="microseconds")
