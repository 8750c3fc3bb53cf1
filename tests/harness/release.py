"""The chart, installed on a cluster by its own words."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import venvd
from harness.kubernetes import REGISTRY_URL, VALUES, Namespace, find_ca_bundle, make_namespace, read_values, run
from harness.stack import ROOT
from harness.waiting import wait_until

CHART = ROOT / "charts" / "venvd"
PREPARE = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: state}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: prepare}
spec:
  restartPolicy: Never
  containers:
    - name: prepare
      image: IMAGE
      command: [chmod, "0777", /volume]
      securityContext: {runAsUser: 0}
      volumeMounts: [{name: volume, mountPath: /volume}]
  volumes: [{name: volume, persistentVolumeClaim: {claimName: state}}]
"""
"""A volume that any user may write: host paths, which clusters for tests have as volumes, ignore `fsGroup`."""


class Release:
    """The chart, installed in a namespace that enforces restricted pod security."""

    def __init__(self, namespace: Namespace, tmp_path: Path) -> None:
        self.namespace = namespace
        self._home = tmp_path
        self.options: list[object] = ["--set", "persistence.existingClaim=state"]
        for name in ("egressCidrs", "buildCidrs"):  # networks of clusters for tests often know IPv4 alone
            self.options += ["--set", f"networkPolicy.{name}={{0.0.0.0/0}}"]
        if REGISTRY_URL:
            self.options += ["--set", f"registry.url={REGISTRY_URL}"]
        if find_ca_bundle():
            self.options += ["--set", "ca.configMap=site-ca"]

    def helm(self, *arguments: object) -> str:
        return run("helm", *arguments, "--namespace", self.namespace.name)

    def change(self, verb: str, *options: object) -> str:
        """Install or upgrade, and wait until the controller is ready."""
        return self.helm(
            verb, "venvd", CHART, "--values", ROOT / str(VALUES), *self.options, *options, "--wait", "--timeout", "90s"
        )

    def read_token(self) -> str:
        [secret] = [each for each in self.namespace.get("secrets") if each["metadata"]["name"] == "venvd-identity"]
        return base64.b64decode(secret["data"]["token"]).decode()

    @contextmanager
    def forward(self, service: str, port: int) -> Iterator[str]:
        """Forward a free port of this machine to a Service; its address."""
        command = ["kubectl", "--namespace", self.namespace.name, "port-forward", f"service/{service}", f":{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                own = process.stdout.readline().split(" -> ")[0].rpartition(":")[2]
                yield f"http://127.0.0.1:{own}"
            finally:
                process.terminate()

    def venvd(self, *words: str) -> str:
        """Run the command line as a user who forwards the port of the controller."""
        with self.forward("venvd", 8600) as url:
            env = {**os.environ, "VENVD_URL": url, "VENVD_TOKEN": self.read_token(), "VENVD_HOME": str(self._home)}
            command = [Path(sys.executable).with_name("venvd"), *words]
            result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
        log = self.namespace.kubectl("logs", "deployment/venvd", "--tail=40")
        assert result.returncode == 0, result.stdout + result.stderr + log
        return result.stdout

    def reaches(self, service: str) -> bool:
        """Whether another pod of the namespace gets a connection to a Service, on a cluster that enforces policies."""
        code = f"import socket; socket.create_connection(({service!r}, 5678), 3).close()"
        container = {
            "name": "client",
            "image": read_values()["images"]["controller"],
            "command": ["/opt/venv/bin/python", "-I", "-c", code],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        spec = {"restartPolicy": "Never", "securityContext": security, "containers": [container]}
        path = self._home / "client.json"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": spec}))
        self.namespace.kubectl("apply", "--filename", path)
        try:
            return bool(wait_until(self._find_end, "the client does not end") == "Succeeded")
        finally:
            self.namespace.kubectl("delete", "pod", "client", "--now")

    def _find_end(self) -> str:
        phase = self.namespace.kubectl("get", "pod", "client", "--output", "jsonpath={.status.phase}")
        return phase if phase in {"Succeeded", "Failed"} else ""

    def fetch(self, service: str, path: str, token: str) -> tuple[int, str]:
        """Send a GET request to a backend through a forwarded port; its status and its text."""
        with (
            self.forward(service, 5678) as url,
            closing(HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection,
        ):
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def evaluate(self, name: str, token: str, code: str) -> Any:
        """Evaluate code in a backend through a forwarded port."""
        with self.forward(name, 5678) as url, venvd.connect(url, token=token) as backend:
            return backend.eval(code)


@contextmanager
def prepare_release(purpose: str, directory: Path) -> Iterator[Release]:
    """Make a namespace with what the chart needs of its user, and enforce restricted pod security in it."""
    with make_namespace(purpose) as namespace:
        prepare = directory / "prepare.yaml"
        prepare.write_text(PREPARE.replace("IMAGE", read_values()["images"]["controller"]))
        namespace.kubectl("apply", "--filename", prepare)
        namespace.kubectl("wait", "pod/prepare", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
        namespace.kubectl("delete", "pod", "prepare")
        namespace.restrict()
        if (bundle := find_ca_bundle()) is not None:
            namespace.kubectl("create", "configmap", "site-ca", f"--from-file=ca.crt={bundle}")
        yield Release(namespace, directory)
