"""A cluster for tests: `make test-kubernetes` says which, with the images that it pushed."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from harness.waiting import wait_until
from venvd_engines.kubernetes.settings import KubernetesSettings

VALUES = os.environ.get("VENVD_TEST_KUBERNETES")
"""The file with the digests of the images; without it there is no cluster."""
REGISTRY_URL = os.environ.get("VENVD_TEST_REGISTRY_URL") or None
_KINDS = (
    "pods,services,secrets,configmaps,networkpolicies,deployments,persistentvolumeclaims,roles,serviceaccounts,leases"
)
_OF_EACH_NAMESPACE = {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}


def run(*command: object, check: bool = True) -> str:
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=False)
    assert not check or result.returncode == 0, f"{command}: {result.stderr}{result.stdout}"
    return result.stdout


class Namespace:
    """A namespace of the cluster."""

    def __init__(self, name: str) -> None:
        self.name = name

    def kubectl(self, *arguments: object, check: bool = True) -> str:
        return run("kubectl", "--namespace", self.name, *arguments, check=check)

    def get(self, kinds: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kinds, "--output", "json"))["items"]
        return items

    def list_names(self) -> set[str]:
        """List what is there, beside what the cluster itself puts into each namespace."""
        return {f"{each['kind']}/{each['metadata']['name']}" for each in self.get(_KINDS)} - _OF_EACH_NAMESPACE

    def restrict(self) -> None:
        """Let the namespace refuse pods that break restricted pod security."""
        self.enforce("restricted")

    def enforce(self, level: str) -> None:
        """Let the namespace refuse pods that break a level of pod security."""
        self.kubectl("label", "--overwrite", "namespace", self.name, f"pod-security.kubernetes.io/enforce={level}")


@contextmanager
def make_namespace(purpose: str) -> Iterator[Namespace]:
    name = f"venvd-test-{purpose}-{secrets.token_hex(3)}"
    run("kubectl", "create", "namespace", name)
    try:
        yield Namespace(name)
    finally:
        run("kubectl", "delete", "namespace", name, "--wait=false")


def read_values() -> dict[str, Any]:
    """Read the chart's values that name the images of this run."""
    assert VALUES
    values: dict[str, Any] = yaml.safe_load(Path(VALUES).read_text())
    return values


def find_ca_bundle() -> Path | None:
    """The certificates of the machine: a private CA counts in builds too."""
    name = os.environ.get("VENVD_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    return Path(name) if name else None


def find_host_address() -> str:
    """Find the address of this host that leads to the nodes."""
    path = 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}'
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        trial.connect((run("kubectl", "get", "nodes", "--output", path), 1))
        return str(trial.getsockname()[0])


@contextmanager
def open_settings() -> Iterator[dict[str, Any]]:
    """Fields of the settings of an engine that has a namespace of its own, in which it leaves nothing."""
    values = read_values()
    with make_namespace("suite") as namespace:
        namespace.restrict()
        yield {
            "base_image": values.get("baseImage"),
            "kubernetes": KubernetesSettings(
                namespace=namespace.name,
                images=values["images"],
                registry=values["registry"]["prefix"],
                registry_url=REGISTRY_URL,
            ),
        }
        wait_until(lambda: not namespace.list_names(), lambda: f"left: {namespace.list_names()}")
