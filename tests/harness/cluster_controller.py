"""A controller of this host whose engine is `kubernetes`, with a namespace and a way to the API server of its own."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from harness.api_proxy import ApiProxy, running_proxy
from harness.controller import Controller, caller
from harness.kubernetes import REGISTRY_URL, Namespace, find_ca_bundle, make_namespace, read_values
from harness.stack import make_home_id
from harness.waiting import wait_until
from venvd_engines.kubernetes.registry import Repository

PYTHON = "3.13"
_PARTS = ("Pod", "Secret", "Service")


class ClusterController(Controller):
    """A controller with its namespace.

    Attributes:
        proxy: its way to the API server.
        namespace: of all that it makes there.
    """

    def __init__(self, home: Path, namespace: Namespace, proxy: ApiProxy, **env: str) -> None:
        self.namespace = namespace
        self.proxy = proxy
        self.home_id = make_home_id()
        (home / "id").write_text(self.home_id)
        values, bundle = read_values(), find_ca_bundle()
        settings = {
            "KUBECONFIG": str(proxy.kubeconfig),
            "VENVD_LOG_LEVEL": "warning",
            "VENVD_KUBERNETES_NAMESPACE": namespace.name,
            "VENVD_KUBERNETES_IMAGES": json.dumps(values["images"]),
            "VENVD_KUBERNETES_REGISTRY": values["registry"]["prefix"],
            "VENVD_KUBERNETES_REGISTRY_URL": REGISTRY_URL,
            "VENVD_BASE_IMAGE": values.get("baseImage"),
            "VENVD_CA_BUNDLE": str(bundle) if bundle else None,
        }
        super().__init__("kubernetes", home, {name: text for name, text in settings.items() if text} | env)

    @property
    def repository(self) -> Repository:
        """The images of its venvs."""
        bundle = find_ca_bundle()
        name = f"{read_values()['registry']['prefix']}/venv"
        return Repository(name, url=REGISTRY_URL, ca_bundle=str(bundle) if bundle else None)

    @property
    def is_dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def list_objects(self) -> list[str]:
        """List what the home has in the cluster, as kind and name of the backend or of the object."""
        objects = []
        for kind, path in (("Pod", "pods"), ("Secret", "secrets"), ("Service", "services"), ("Lease", "leases")):
            group = "/apis/coordination.k8s.io/v1" if kind == "Lease" else "/api/v1"
            answer = self.proxy.ask(f"{group}/namespaces/{self.namespace.name}/{path}")
            for each in answer["items"]:
                labels = each["metadata"].get("labels") or {}
                objects.append(f"{kind}/{labels.get('dev.venvd.name') or each['metadata']['name']}")
        return sorted(objects)

    def list_pods(self, name: str) -> list[dict[str, Any]]:
        """List the pods of a backend that are not being deleted."""
        query = f"labelSelector=dev.venvd.name%3D{name}"
        answer = self.proxy.ask(f"/api/v1/namespaces/{self.namespace.name}/pods?{query}")
        return [pod for pod in answer["items"] if "deletionTimestamp" not in pod["metadata"]]

    def await_objects(self, *names: str) -> None:
        """Wait until the home has the three objects of each of these backends, and nothing else."""
        wanted = sorted(f"{kind}/{name}" for name in names for kind in _PARTS)
        wait_until(
            lambda: self.list_objects() == wanted,
            lambda: f"there is {self.list_objects()}, and not {wanted}\n{self.read_log()}",
        )

    def check_answers(self, name: str) -> None:
        """Let a backend evaluate something, once it runs."""
        with closing(caller(self.await_running(name))) as call:
            assert call("eval", {"expression": "6 * 7"}) == {"value": 42}


@contextmanager
def prepared_on_cluster(purpose: str, **env: str) -> Iterator[ClusterController]:
    """Prepare a controller, which the caller starts; at the end, remove its namespace and the tags of its images."""
    home = Path(tempfile.mkdtemp(prefix="venvd-cluster-"))
    with make_namespace(purpose) as namespace, running_proxy(home) as proxy:
        namespace.restrict()
        controller = ClusterController(home, namespace, proxy, **env)
        try:
            yield controller
        finally:
            controller.stop()
            for tag in controller.repository.list_tags():
                if tag.startswith(controller.home_id):
                    controller.repository.remove_tag(tag)
            shutil.rmtree(home)
