"""The chart on a cluster that has the kinds of the Prometheus operator and of the Gateway API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness.kubernetes import run
from harness.release import Release, prepare_release
from harness.waiting import wait_until

pytestmark = pytest.mark.disruptive

KINDS = {
    "ServiceMonitor": ("servicemonitors", "monitoring.coreos.com", "v1"),
    "PrometheusRule": ("prometheusrules", "monitoring.coreos.com", "v1"),
    "ScrapeConfig": ("scrapeconfigs", "monitoring.coreos.com", "v1alpha1"),
    "HTTPRoute": ("httproutes", "gateway.networking.k8s.io", "v1"),
}
INGRESS = ("ingress.enabled=true", "ingress.host=venvd.example.com", "ingress.tlsSecret=certificate")
GATEWAY = ("gateway.enabled=true", "gateway.parentRefs[0].name=public", "gateway.hostnames={venvd.example.com}")


def make_definition(kind: str) -> dict[str, Any]:
    """Make the least definition of a kind: it takes every field; tests/charts checks the fields by their schemas."""
    plural, group, version = KINDS[kind]
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"}
    metadata: dict[str, Any] = {"name": f"{plural}.{group}"}
    if group.endswith(".k8s.io"):
        metadata["annotations"] = {"api-approved.kubernetes.io": "unapproved, for a test"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [served]},
    }


@pytest.fixture
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The names of all kinds, for kubectl; those that the cluster lacks are added for the test."""
    present = run("kubectl", "get", "customresourcedefinitions", "--output=name").split()
    definitions = [make_definition(kind) for kind in KINDS]
    added = [each for each in definitions if not any(each["metadata"]["name"] in name for name in present)]
    file = tmp_path_factory.mktemp("kinds") / "kinds.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": added}))
    if added:
        run("kubectl", "create", "--filename", file)
        run("kubectl", "wait", "--for=condition=Established", "--timeout=60s", "--filename", file)
    yield ",".join(["ingresses", *(f"{plural}.{group}" for plural, group, _ in KINDS.values())])
    if added:
        run("kubectl", "delete", "--filename", file)


@pytest.fixture
def release(kinds: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    with prepare_release("kinds", tmp_path_factory.mktemp("chart")) as prepared:
        yield prepared


def test_routes_and_monitoring_are_installed_and_removed(release: Release, kinds: str) -> None:
    """The API server takes Ingress, route, monitors, rules and dashboard; an upgrade removes what it turns off."""
    before = release.namespace.list_names()

    def list_kinds() -> list[str]:
        return sorted(each["kind"] for each in release.namespace.get(kinds))

    release.change("install", *(word for value in (*INGRESS, *GATEWAY) for word in ("--set", value)))
    assert list_kinds() == sorted(["Ingress", *KINDS])
    [monitor] = release.namespace.get("servicemonitors.monitoring.coreos.com")
    selected = ",".join(f"{name}={value}" for name, value in monitor["spec"]["selector"]["matchLabels"].items())
    names = release.namespace.kubectl("get", "services", "--selector", selected, "--output=name").split()
    assert names == ["service/venvd"]
    [ingress] = release.namespace.get("ingresses")
    [path] = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": "venvd", "port": {"name": "http"}}
    [dashboard] = [each for each in release.namespace.get("configmaps") if "grafana_dashboard" in list_labels(each)]
    assert json.loads(dashboard["data"]["venvd.json"])["title"]

    release.change("upgrade", "--set", "monitoring.enabled=false")
    assert list_kinds() == []
    release.change("upgrade", "--set", INGRESS[0], "--set", INGRESS[1])
    assert list_kinds() == sorted(["Ingress", *KINDS.keys() - {"HTTPRoute"}])
    release.helm("uninstall", "venvd", "--wait")
    wait_until(lambda: release.namespace.list_names() == before, lambda: release.namespace.list_names() ^ before)
    assert list_kinds() == []


def list_labels(each: dict[str, Any]) -> dict[str, str]:
    return dict(each["metadata"].get("labels") or {})
