"""The pods of a home's backends. A watch keeps the list while it runs; else each reading asks the API server."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import Any

import httpx2
from lightkube.resources.core_v1 import Pod

from venvd_contract.errors import Unavailable
from venvd_engines.kubernetes import labels
from venvd_engines.kubernetes.cluster import Cluster

FRESH_SECONDS = 0.5
"""The age up to which a list of pods answers for all backends if nothing watches."""
WATCH_SECONDS = 20
"""After this long the API server ends a watch, and the next one begins. This shows a silent connection."""
SILENT_SECONDS = 25.0
"""A watch that says nothing for this long has lost its API server."""
SHORT_SECONDS = 1.0
"""After a watch that ends earlier than this, the next one does not begin at once."""
SETTLE_SECONDS = 2.0
"""After its own change, this process asks the cluster for this long: the watch may report the change late."""
_GONE = 410


class PodList:
    """Keeps the pods of all backends, for all threads.

    While a thread iterates over `watch`, its events keep the list true, and reading costs no call. If the connection
    ends or is silent, each reading asks the API server, and raises the client's errors if that is away. So an old list
    never passes for the truth.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._listed: dict[str, Any] = {}
        self._listed_at = -math.inf
        self._watched: dict[str, Any] | None = None
        self._heard_at = -math.inf
        self._settled_at = -math.inf
        self._closed = False

    def read(self, max_age: float = FRESH_SECONDS) -> Mapping[str, Any]:
        """Return the pods by the IDs of their launches. If nothing watches, the list is at most this old."""
        with self._lock:
            if self._is_watched():
                return dict(self._watched or {})
            if time.monotonic() - self._listed_at > max_age:
                pods = self._cluster.list(Pod, labels.BACKEND)
                self._listed = {pod.metadata.labels[labels.LAUNCH]: pod for pod in pods}
                self._listed_at = time.monotonic()
            return self._listed

    def find(self, launch_id: str) -> Any:
        """Find the pod of a launch, or None. The pod may be younger than the list."""
        with self._lock:
            pod = (self._watched or {}).get(launch_id) if self._is_watched() else None
        return pod or self._cluster.find(Pod, labels.make_name(launch_id))

    def expect_change(self) -> None:
        """Let readings ask the API server for a while, since this process has changed a pod."""
        with self._lock:
            self._listed_at = -math.inf
            self._settled_at = time.monotonic() + SETTLE_SECONDS

    def close(self) -> None:
        """Let a watch end with its connection."""
        self._closed = True

    def _is_watched(self) -> bool:
        now = time.monotonic()
        return self._watched is not None and now - self._heard_at < SILENT_SECONDS and now > self._settled_at

    # ---- the watch -------------------------------------------------------------------------------------------

    def watch(self) -> Iterator[None]:
        """Yield once when the list is there, and whenever a part of a backend begins, ends or vanishes.

        If the API server no longer knows the version that was read last (410), this lists anew.

        Raises:
            Unavailable, HTTPError, ApiError: the API server is away, was silent, or refuses; the caller comes again.
        """
        pods: dict[str, Any] = {}
        try:
            with closing(self._cluster.open_watching(SILENT_SECONDS)) as connection:
                while not self._closed:
                    version: str | None = self._list(pods)
                    yield
                    listed = True
                    while version is not None and not self._closed:
                        began = time.monotonic()
                        version = yield from self._follow(connection, pods, version)
                        short = time.monotonic() - began < SHORT_SECONDS
                        if short and version is not None:
                            return
                        if short and listed:
                            raise Unavailable("the API server forgets at once what it listed")
                        listed = False
        finally:
            with self._lock:
                if self._watched is pods:
                    self._watched = None

    def _list(self, pods: dict[str, Any]) -> str:
        """Fill in the existing pods, and return the version of the list."""
        selector: dict[str, Any] = self._cluster.select(labels.BACKEND)
        listed: Any = self._cluster.client.list(Pod, labels=selector)
        by_launch = {pod.metadata.labels[labels.LAUNCH]: pod for pod in listed}
        with self._lock:
            pods.clear()
            pods.update(by_launch)
            self._watched = pods
            self._heard_at = time.monotonic()
        return str(listed.resourceVersion)

    def _follow(
        self, connection: httpx2.Client, pods: dict[str, Any], version: str
    ) -> Generator[None, None, str | None]:
        """Take in the events after a version until the API server ends the watch.

        Returns:
            The version to go on from, or None if the API server no longer has it.
        """
        parameters = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "labelSelector": ",".join(f"{key}={value}" for key, value in self._cluster.select(labels.BACKEND).items()),
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        path = f"/api/v1/namespaces/{self._cluster.namespace}/pods"
        with connection.stream("GET", path, params=parameters) as response:
            if response.status_code == _GONE:
                return None
            response.raise_for_status()
            self._note_sign()
            for line in response.iter_lines():
                event = _parse(line)
                if event["type"] == "ERROR":
                    if event["object"].get("code") == _GONE:
                        return None
                    raise Unavailable(f"the API server ends the watch of pods: {event['object'].get('message')}")
                version = str(event["object"]["metadata"]["resourceVersion"])
                if self._take(event, pods):
                    yield
        self._note_sign()
        return version

    def _note_sign(self) -> None:
        with self._lock:
            self._heard_at = time.monotonic()

    def _take(self, event: dict[str, Any], pods: dict[str, Any]) -> bool:
        """Take an event into the list, and return whether a part began, ended or vanished."""
        with self._lock:
            self._heard_at = time.monotonic()
            if event["type"] == "BOOKMARK":
                return False
            self._listed_at = -math.inf  # the list that was asked for may be older than the event
            pod: Any = Pod.from_dict(event["object"])
            launch_id = pod.metadata.labels[labels.LAUNCH]
            before = pods.pop(launch_id, None)
            if event["type"] == "DELETED":
                return True
            pods[launch_id] = pod
        return _summarize(before) != _summarize(pod)


def _parse(line: str) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise Unavailable("the watch of pods broke off in the middle of an event") from error
    return event


def _summarize(pod: Any) -> object:
    """Summarize what shows the state of a backend: the phase, and which containers run or ended."""
    if pod is None:
        return None
    statuses = pod.status.containerStatuses or ()
    running = sorted(each.name for each in statuses if each.state and each.state.running is not None)
    ended = sorted(each.name for each in statuses if each.state and each.state.terminated is not None)
    return pod.status.phase, running, ended
