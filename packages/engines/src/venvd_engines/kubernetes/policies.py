"""A probe with two pods: does the cluster's network enforce NetworkPolicies?

The first pod listens, and no policy of the chart selects it. The second one is closed like a backend without network,
and tries to connect to the first.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

from lightkube.resources.core_v1 import Pod

from venvd_contract.errors import InvalidRequest, Unavailable, VenvdError
from venvd_engines.engine import Progress
from venvd_engines.kubernetes import closed, labels, pods
from venvd_engines.kubernetes.cluster import Cluster, translate_errors
from venvd_engines.kubernetes.waiting import explain_waiting, find_failure

FRESH_SECONDS = 600.0
"""The age up to which an answer counts."""
AGAIN_SECONDS = 30.0
"""The pause after a probe that did not run."""
START_SECONDS = 60.0
POLL_SECONDS = 0.2
PORT = 8080


class Policies:
    """Knows whether the cluster enforces policies; for all threads."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._probing = threading.Lock()
        self._enforced: bool | None = None
        self._problem = ""
        self._known_at = 0.0
        self._background: threading.Thread | None = None
        self._closed = False

    def require(self, what: str, progress: Progress) -> None:
        """Check that the cluster enforces policies. Probe again if the last probe is old or did not succeed.

        Raises:
            InvalidRequest: the cluster does not enforce them.
            Unavailable: the probe does not run.
        """
        with self._probing:
            if not (self._enforced and self._is_fresh()):
                progress.log("finding out whether the cluster enforces NetworkPolicies")
                self._probe()
            enforced, problem = self._enforced, self._problem
        if enforced is None:
            raise Unavailable(f"{what}: it is not known whether the cluster enforces NetworkPolicies: {problem}")
        if not enforced:
            raise InvalidRequest(
                f"{what} needs NetworkPolicies, which keep the pod from all else. The cluster does not enforce them "
                "for the pods of venvd: see networkPolicy.enabled of the chart, and the network of the cluster"
            )

    def describe(self) -> str:
        """Return a sentence unless policies are enforced. If the last probe is old, start one in the background."""
        if not self._is_fresh() and not self._closed and not self._probing.locked():
            self._background = threading.Thread(target=self._probe_in_background, daemon=True, name="policy-probe")
            self._background.start()
        if self._enforced is None:
            return f"It is not known whether the cluster enforces NetworkPolicies: {self._problem or 'a probe runs'}."
        if self._enforced:
            return ""
        return (
            "The cluster does not enforce NetworkPolicies: user code with a network reaches the whole cluster, and "
            'backends with a list of destinations or "loopback" are refused.'
        )

    def close(self) -> None:
        """End the probe in the background, if one runs."""
        self._closed = True
        if self._background is not None:
            self._background.join()

    def sweep(self) -> None:
        """Remove the pods of killed controllers."""
        for pod in self._cluster.client.list(Pod, labels={labels.PROBE: self._cluster.settings.home_id}):
            if not self._cluster.is_made_here(pod.metadata):
                self._cluster.delete(Pod, str(pod.metadata.name), 0)  # type: ignore[union-attr]

    def _is_fresh(self) -> bool:
        fresh = AGAIN_SECONDS if self._enforced is None else FRESH_SECONDS
        return self._known_at > 0 and time.monotonic() - self._known_at < fresh

    def _probe_in_background(self) -> None:
        with self._probing:
            if not self._is_fresh():
                self._probe()

    def _probe(self) -> None:
        try:
            with translate_errors("find out whether it enforces NetworkPolicies"):
                self._enforced, self._problem = self._try_out(), ""
        except VenvdError as error:
            self._enforced, self._problem = None, error.message
        self._known_at = time.monotonic()

    def _try_out(self) -> bool:
        with self._run("listen", {}, self._make_listener()) as listener:
            address = self._wait(listener, lambda pod: pod.status.podIP if _is_ready(pod) else None)
            client = ["-m", closed.__name__, address, str(PORT)]
            selected = {**self._cluster.labels(labels.PROBING), labels.NETWORK: "none"}
            with self._run("connect", selected, self._make_container(client)) as name:
                status = self._wait(name, _find_status)
            if self._wait(listener, lambda pod: _is_ready(pod) or None) and status not in {0, closed.OPEN_STATUS}:
                raise Unavailable(f"the pod that tries the network ended with status {status}")
        return bool(status == 0)

    def _make_listener(self) -> dict[str, Any]:
        probe = {"tcpSocket": {"port": PORT}, "periodSeconds": 1}
        return {
            **self._make_container(["-m", "http.server", str(PORT), "--directory", pods.TMP]),
            "readinessProbe": probe,
        }

    def _make_container(self, words: list[str]) -> dict[str, Any]:
        command = ["/opt/venv/bin/python", "-I", *words]
        image = pods.find_image(self._cluster.options, "controller")
        container = {"name": "probe", "image": image, "command": command, "resources": pods.PROGRAM_RESOURCES}
        return pods.secure(container, pods.CONTROLLER_UID)

    @contextlib.contextmanager
    def _run(self, part: str, own: dict[str, str], container: dict[str, Any]) -> Iterator[str]:
        """Run a pod of one container, and yield its name. Only `own` labels let the policies of the chart select it."""
        name = f"venvd-probe-{part}-{secrets.token_hex(6)}"
        common = self._cluster.labels(labels.PROBING)
        wanted = {**own, labels.PROBE: common[labels.HOME], labels.INSTANCE: common[labels.INSTANCE]}
        spec = pods.make_spec(
            self._cluster.options,
            pods.CONTROLLER_UID,
            containers=[container],
            activeDeadlineSeconds=300,
            terminationGracePeriodSeconds=0,
        )
        with self._cluster.remove_at_end((Pod, name)):
            metadata = self._cluster.make_metadata(name, wanted)
            self._cluster.create(Pod, {"metadata": metadata, "spec": spec})
            yield name

    def _wait(self, name: str, find: Any) -> Any:
        """Wait until `find` finds something in a pod, and return it."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._closed:
                raise Unavailable("the controller ends")
            pod = self._cluster.find(Pod, name)
            if pod is None:
                raise Unavailable("the pod that tries the network was deleted")
            result = find(pod)
            if result is not None:
                return result
            failure = find_failure(pod)
            if failure is not None:
                raise failure
            if time.monotonic() > deadline:
                reason = explain_waiting(pod) or "the cluster says no reason"
                raise Unavailable(f"the pod that tries the network did not run within {START_SECONDS:g} s: {reason}")
            time.sleep(POLL_SECONDS)


def _is_ready(pod: Any) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or ())


def _find_status(pod: Any) -> int | None:
    for status in pod.status.containerStatuses or ():
        if status.state is not None and status.state.terminated is not None:
            return int(status.state.terminated.exitCode)
    return None
