"""The way from servers to the controller: commands about venvs, and backends that manage venvs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness.release import Release, prepare_release

import venvd

CONNECT = """
import socket
def connect(host):
    try:
        socket.create_connection((host, 8600), 3).close()
        return "open"
    except OSError as error:
        return "closed"
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    with prepare_release("manages", tmp_path_factory.mktemp("manages")) as prepared:
        prepared.change("install")
        prepared.venvd("init", "3.13")
        prepared.venvd("venv", "create", "base", "--python", "3.13")
        yield prepared
        prepared.helm("uninstall", "venvd", "--wait")


def start(release: Release, *words: str) -> dict[str, Any]:
    started: dict[str, Any] = json.loads(release.venvd("start", "http", "--venv", "base", *words, "--json"))
    return started


def test_a_session_manages_its_venvs(release: Release) -> None:
    """`venvd_host` makes, lists and deletes venvs and runs code in them, from user code without any socket."""
    started = start(release, "--name", "managing", "--manages", "made-*")

    def run(code: str) -> Any:
        return release.evaluate("managing", started["token"], f"from venvd_host import VenvManager\n{code}")

    assert run("VenvManager().create_environment('made-1', ['six'])['state']") == "ready"
    assert run("[venv['name'] for venv in VenvManager().list_environments()]") == ["made-1"]
    output = run("VenvManager().run_in_environment('made-1', 'import six; print(six.__name__); 6 * 7')")
    assert (output["stdout"], output["result"]["value"], output["error"]) == ("six\n", 42, None)
    release.venvd("stop", "run-made-1")
    assert run("VenvManager().delete_environment('made-1')") is None
    assert run("VenvManager().list_environments()") == []
    with pytest.raises(venvd.UserError, match=r"made-\*"):
        run("VenvManager().create_environment('other')")
    address = release.namespace.kubectl("get", "service", "venvd", "--output", "jsonpath={.spec.clusterIP}")
    assert run(f"{CONNECT}\nconnect({address!r})") == "closed"
    release.venvd("stop", "managing")


def test_a_server_passes_on_what_its_clients_may_do(release: Release) -> None:
    """A command about venvs reaches the controller, with the caller's key; a backend with a network has no such way."""
    key = json.loads(release.venvd("key", "create", "ci", "--scope", "operator", "--json"))["key"]
    closed = start(release, "--name", "closed")
    status, listed = release.fetch("closed", "/venv/list", key)
    assert (status, "base" in listed) == (200, True)
    opened = start(release, "--name", "opened", "--network")
    status, problem = release.fetch("opened", "/venv/list", key)
    assert (status, "cannot reach its controller" in problem) == (503, True)
    assert release.evaluate("opened", opened["token"], f"{CONNECT}\nconnect('venvd')") == "closed"
    assert closed["state"] == "running"
    for name in ("closed", "opened"):
        release.venvd("stop", name)
