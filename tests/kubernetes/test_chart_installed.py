"""The chart on a cluster, as a new user takes it: install, first call, test, upgrade, rollback, uninstall."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from harness.certificates import make_authority, make_certificate
from harness.pod_security import list_violations
from harness.release import Release, prepare_release
from harness.waiting import wait_until


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    with prepare_release("chart", tmp_path_factory.mktemp("chart")) as prepared:
        yield prepared


def list_pods(release: Release, **wanted: str) -> list[dict[str, Any]]:
    return [
        pod
        for pod in release.namespace.get("pods")
        if all(pod["metadata"]["labels"].get(f"dev.venvd.{name}") == value for name, value in wanted.items())
    ]


def test_from_nothing_to_a_first_call_and_back_to_nothing(release: Release, tmp_path: Path) -> None:
    """The words of docs/kubernetes.md lead to a first call; upgrade and rollback keep all; uninstall leaves nothing."""
    before = release.namespace.list_names()
    notes = release.change("install")
    assert "port-forward service/venvd 8600:8600" in notes
    assert "Succeeded" in release.helm("test", "venvd")
    token = release.read_token()

    release.venvd("init", "3.13")
    release.venvd("venv", "create", "science", "--python", "3.13", "--requirement", "six")
    started = json.loads(release.venvd("start", "http", "--venv", "science", "--json"))
    assert started["url"] == f"http://science-http.{release.namespace.name}.svc:5678"
    assert release.evaluate("science-http", started["token"], "__import__('six').__name__") == "six"
    assert list_violations(list_pods(release, role="backend")[0]["spec"]) == []

    # of the pods beside it, only those of named namespaces reach a backend
    assert not release.reaches("science-http")

    # an upgrade and a rollback replace the controller, and neither the token nor what runs
    [pod] = list_pods(release, role="backend")
    release.change("upgrade", "--set", f"networkPolicy.clientNamespaces={{{release.namespace.name}}}")
    wait_until(lambda: release.reaches("science-http"), "the namespace is named, and reaches no backend")
    release.helm("rollback", "venvd", "1", "--wait", "--timeout", "90s")
    assert release.read_token() == token
    assert "science-http" in release.venvd("list")
    assert [each["metadata"]["uid"] for each in list_pods(release, role="backend")] == [pod["metadata"]["uid"]]
    assert release.evaluate("science-http", started["token"], "6 * 7") == 42

    # with a certificate, the controller speaks TLS alone, also with the servers that start then
    access_key = json.loads(release.venvd("key", "create", "ci", "--scope", "operator", "--json"))["key"]
    make_authority(tmp_path)
    cert, key = make_certificate(
        tmp_path, "controller", names=f"subjectAltName=DNS:venvd.{release.namespace.name}.svc\n"
    )
    release.namespace.kubectl("create", "secret", "tls", "certificate", f"--cert={cert}", f"--key={key}")
    release.change("upgrade", "--set", "tls.existingSecret=certificate")
    assert "Succeeded" in release.helm("test", "venvd")
    release.namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--now")

    def list_venvs() -> str:
        with contextlib.suppress(OSError, HTTPException):
            status, text = release.fetch("science-http", "/venv/list", access_key)
            return text if status == 200 else ""
        return ""

    assert "science" in wait_until(list_venvs, "no server reaches the controller by TLS")
    release.namespace.kubectl("delete", "secret", "certificate")

    release.helm("uninstall", "venvd", "--wait")
    wait_until(lambda: release.namespace.list_names() == before, lambda: release.namespace.list_names() ^ before)
