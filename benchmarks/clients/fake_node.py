"""A node of a real cluster that runs nothing: pods there only seem to run, and one HTTP server answers for all.

The API server, the scheduler and the Services are real. A node of this size would need dozens of gigabytes.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from harness.kubernetes import Namespace, find_host_address, run
from lightkube import Client
from lightkube.core.exceptions import ApiError
from lightkube.resources.core_v1 import Node, Pod
from lightkube.types import PatchType

NAME = "venvd-bench-node"
TAINT = {"key": "dev.venvd/bench", "effect": "NoSchedule"}
SELECTOR = {"kubernetes.io/hostname": NAME}
TOLERATIONS = [{"key": TAINT["key"], "operator": "Exists"}]
PORT = 5678
HEARTBEAT_SECONDS = 10.0


class _Answers(BaseHTTPRequestHandler):
    """Answers probes as a server does that is ready; keeps connections."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a caller that has gone."""


class FakeNode:
    """Plays the kubelet of a node for the pods of one namespace."""

    def __init__(self, client: Client, namespace: Namespace) -> None:
        self._client = client
        self._namespace = namespace.name
        self._address = find_host_address()
        self._ended = threading.Event()
        self._server = _Server((self._address, PORT), _Answers)
        self._work = [self._server.serve_forever, self._beat, self._run_pods]

    def start(self) -> None:
        metadata = {"name": NAME, "labels": SELECTOR}
        self._client.create(Node.from_dict({"metadata": metadata, "spec": {"taints": [TAINT]}}))
        for work in self._work:
            threading.Thread(target=work, daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._client.delete(Node, NAME)

    def _beat(self) -> None:
        """Say that the node is ready, again and again."""
        while True:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            condition = {"type": "Ready", "status": "True", "reason": "Fake", "message": "it runs nothing"}
            size = {"cpu": "1000", "memory": "1000Gi", "pods": "1000"}
            status = {
                "capacity": size,
                "allocatable": size,
                "conditions": [{**condition, "lastHeartbeatTime": now, "lastTransitionTime": now}],
            }
            self._client.patch(Node.Status, NAME, {"status": status}, patch_type=PatchType.STRATEGIC)
            if self._ended.wait(HEARTBEAT_SECONDS):
                return

    def _run_pods(self) -> None:
        """Say of each pod that it runs, and let go of those that are being deleted."""
        while not self._ended.wait(0.5):
            for pod in self._client.list(Pod, namespace=self._namespace, fields={"spec.nodeName": NAME}):
                with contextlib.suppress(ApiError):
                    self._run_pod(pod)

    def _run_pod(self, pod: Any) -> None:
        name, now = pod.metadata.name, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if pod.metadata.deletionTimestamp is not None:
            self._client.delete(Pod, name, namespace=self._namespace, grace_period=0)
        elif pod.status.phase == "Pending":
            rest = {"image": "", "imageID": "", "ready": True, "started": True, "restartCount": 0}
            statuses = [
                {**rest, "name": each.name, "containerID": "fake://0", "state": {"running": {"startedAt": now}}}
                for each in pod.spec.containers
            ]
            status = {
                "phase": "Running",
                "podIP": self._address,
                "podIPs": [{"ip": self._address}],
                "containerStatuses": statuses,
                "conditions": [{"type": "Ready", "status": "True"}],
            }
            patch = {"status": status}
            self._client.patch(Pod.Status, name, patch, namespace=self._namespace, patch_type=PatchType.STRATEGIC)


@contextmanager
def running_fake_node(client: Client, namespace: Namespace) -> Iterator[dict[str, str]]:
    """Run such a node; the environment of a controller whose pods go there."""
    run("kubectl", "delete", "node", NAME, "--ignore-not-found")
    node = FakeNode(client, namespace)
    node.start()
    try:
        yield {
            "VENVD_KUBERNETES_NODE_SELECTOR": json.dumps(SELECTOR),
            "VENVD_KUBERNETES_TOLERATIONS": json.dumps(TOLERATIONS),
        }
    finally:
        node.close()
