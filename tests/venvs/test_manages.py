"""Venvs managed from inside sessions, by a backend whose field `manages` names them."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from harness.bench import PYTHON
from harness.controller import Controller

from venvd_contract.errors import Forbidden, InvalidRequest

pytestmark = pytest.mark.network


class Session:
    """A connection to a pipe backend; a direct one once it is attached."""

    def __init__(self, backend: dict[str, Any], *, direct: bool = False) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(240)
        self._socket.connect(urlsplit(backend["url"]).path)
        self._lines = self._socket.makefile("rb")
        self.send("session.attach" if direct else "ping", {}, token=backend["token"])

    def send(self, command: str, payload: dict[str, Any], **fields: Any) -> dict[str, Any]:
        self._socket.sendall(json.dumps({"command": command, "payload": payload, **fields}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    def run(self, code: str) -> Any:
        """The value of the last expression; an error of the code is returned as its message."""
        answer = self.send("eval", {"expression": f"from venvd_host import VenvManager\n{code}"})
        return answer.get("error") or answer["result"]["value"]

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


@pytest.fixture(scope="module")
def managing(controller: Controller) -> Iterator[dict[str, Any]]:
    """A pipe backend without any network that manages `made-*` and the venvs of providers."""
    controller.api("PUT", f"/v1/runtimes/{PYTHON}", {})
    controller.venv("base", python=PYTHON)
    yield controller.backend("base", "pipe", name="managing", manages=["made-*", "provider-*"], network=False)
    for name in ("managing", "run-made-1"):
        if controller.raw("GET", f"/v1/backends/{name}")[0] == 200:
            controller.delete_backend(name)


@pytest.mark.parametrize("direct", [False, True], ids=["server", "direct"])
def test_a_session_manages_its_venvs(controller: Controller, managing: dict[str, Any], direct: bool) -> None:
    """`VenvManager` makes, lists and deletes venvs and runs code in them, and a direct session does the same."""
    session = Session(managing, direct=direct)
    made = session.run(f"VenvManager().create_environment('made-1', python={PYTHON!r})['state']")
    assert made == "ready"
    assert controller.api("GET", "/v1/venvs/made-1")["state"] == "ready"
    assert session.run("[venv['name'] for venv in VenvManager().list_environments()]") == ["made-1"]
    output = session.run("VenvManager().run_in_environment('made-1', 'import sys; print(6 * 7); sys.prefix')")
    assert output["stdout"] == "42\n"
    assert output["error"] is None
    assert output["result"]
    assert "made-1" in session.run("VenvManager().delete_environment('made-1')")
    controller.delete_backend("run-made-1")
    assert session.run("VenvManager().delete_environment('made-1')") is None
    assert controller.raw("GET", "/v1/venvs/made-1")[0] == 404
    session.close()


def test_a_provider_gets_its_venv(controller: Controller, managing: dict[str, Any]) -> None:
    """The venv of a provider is built when the call returns."""
    session = Session(managing)
    assert session.run("VenvManager().ensure_provider_environment('acme', 'm1')")
    venvs = controller.api("GET", "/v1/venvs")["items"]
    (venv,) = [each for each in venvs if each["spec"]["labels"] == {"provider": "acme", "model": "m1"}]
    assert venv["name"].startswith("provider-")
    assert venv["state"] == "ready"
    session.close()
    controller.api("DELETE", f"/v1/venvs/{venv['name']}")


def test_the_key_is_in_no_environment(controller: Controller, managing: dict[str, Any]) -> None:
    """What the engine shows of the containers of a backend has no key, on an engine with containers."""
    assert managing["state"] == "running"
    if controller.engine == "docker":
        shown = subprocess.run(["docker", "ps", "-q", "--no-trunc"], capture_output=True, text=True, check=True).stdout
        inspected = subprocess.run(["docker", "inspect", *shown.split()], capture_output=True, text=True, check=False)
        environments = [each["Config"]["Env"] or [] for each in json.loads(inspected.stdout)]
        own = [each for each in environments if "VENVD_NAME=managing" in each]
        assert len(own) == 1
        assert "VENVD_MANAGES_KEY_FILE=/run/venvd/keys/manages.key" in own[0]
        assert not [each for each in own[0] if re.search(r"\bv[cdk]_\w{20}", each)]


def test_other_venvs_are_not_its_own(managing: dict[str, Any]) -> None:
    """A venv that no pattern names is refused, and user code never sees the key."""
    session = Session(managing)
    code = """
import os, venvd_host
codes = []
for name in ("other", "base"):
    try:
        VenvManager().create_environment(name)
    except venvd_host.VenvError as error:
        codes.append(error.code)
[codes, "MANAGES" in str(os.environ)]
"""
    assert session.run(code) == [["forbidden", "forbidden"], False]
    session.close()


def test_broken_lines_end_the_way(managing: dict[str, Any]) -> None:
    """A session that writes no requests to its socket loses it, and serves on."""
    session = Session(managing)
    name = session.send("session.create", {"name": "broken"})["result"]["id"]
    code = """
import venvd_host
venvd_host._socket.sendall(b"not a request" + bytes([10]))
try:
    venvd_host.VenvManager().list_environments()
except venvd_host.VenvError as error:
    result = error.code
result
"""
    assert session.send("eval", {"expression": code}, session=name)["result"]["value"] == "unavailable"
    assert session.send("eval", {"expression": "1 + 1"}, session=name)["result"]["value"] == 2
    session.close()


def test_only_admins_set_it(controller: Controller) -> None:
    """An operator may not start a backend that manages venvs, and a pattern is checked."""
    key = controller.api("POST", "/v1/keys", {"name": "op", "scope": "operator"})["key"]
    body = json.dumps({"venv": "base", "type": "pipe", "manages": ["*"]}).encode()
    status, problem = controller.raw("POST", "/v1/backends", body, key)
    assert (status, problem["code"]) == (403, Forbidden.code)
    with pytest.raises(InvalidRequest, match="manages"):
        controller.api("POST", "/v1/backends", {"venv": "base", "type": "pipe", "manages": ["No Name"]})
    controller.api("DELETE", "/v1/keys/op")


def test_other_backends_have_no_module(controller: Controller, managing: dict[str, Any]) -> None:
    """Without the field, sessions have no `venvd_host`."""
    backend = controller.backend("base", "pipe", name="plain")
    session = Session(backend)
    assert "No module named 'venvd_host'" in session.run("1")
    session.close()
    controller.delete_backend("plain")
