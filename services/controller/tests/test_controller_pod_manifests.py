"""Manifests of pods with a pipe backend beside their client: the token, what is kept, and who may ask."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import cli

from venvd_contract.errors import Conflict, Unimplemented
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_contract.secrets import SecretSpec
from venvd_http.auth import sha256

from .serving import serve  # type: ignore[import-not-found]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def testbed(shared_testbed: Any) -> Any:
    _, operation = shared_testbed.controller.venvs.put("science", VenvSpec(python="3.13", env={"PLACE": "venv"}))
    shared_testbed.wait(operation)
    shared_testbed.engine.user_ids = range(5000, 5020)
    return shared_testbed


def make(testbed: Any, query: str = "", status: int = 200, **fields: Any) -> Any:
    answer = testbed.client.post(f"/v1/backends/manifest?{query}", json={"type": "pipe", "venv": "science", **fields})
    assert answer.status_code == status, answer.text
    return answer.json()


def read_objects(made: Any) -> list[Any]:
    return list(yaml.safe_load_all(made["manifest"]))


def test_equal_requests_get_equal_manifests(testbed: Any) -> None:
    """Name, venv and version of the token give the token; another of them gives another one."""
    first = make(testbed)
    assert (first["name"], first["venv"]) == ("science-pipe", "science")
    assert first["url"] == "unix:///run/venvd/socket/pipe.sock"
    assert make(testbed, name="science-pipe") == first
    requests = ({"name": "other"}, {"query": "tokenVersion=2"}, {"query": "tokenVersion=3"})
    others = [read_objects(make(testbed, **request))[0]["token"] for request in requests]
    [secret, pod] = read_objects(first)
    assert len({secret["token"], *others}) == 4
    assert secret["token"].startswith("vd_")
    [own] = json.loads(secret["keys"])["tokens"]
    assert own == {"name": "backend:science-pipe", "sha256": sha256(secret["token"]), "expiresAt": None}
    assert pod["image"] is None
    assert read_objects(make(testbed, "image=example.com/app:1"))[1]["image"] == "example.com/app:1"


def test_the_launch_is_that_of_a_backend(testbed: Any) -> None:
    """Settings, limits and environment are those of a start, and neither a token nor its digest is in the pod."""
    fields = {"env": {"PLACE": "backend"}, "limits": {"memoryBytes": 1 << 30}, "server": {"maxSessions": 3}}
    make(testbed, **fields, timeout=20, name="planned")
    launch = testbed.engine.planned
    assert launch.worker_env == {"PLACE": "backend"}
    assert launch.limits.memory_bytes == 1 << 30
    env = launch.server_env
    assert (env["VENVD_NAME"], env["VENVD_MAX_SESSIONS"], env["VENVD_DEFAULT_TIMEOUT"]) == ("planned", "3", "20")
    assert not [name for name in env if "SHA256" in name]
    assert launch.user_id in range(5010, 5020)


def test_a_backend_without_a_token(testbed: Any) -> None:
    """Without a token the manifest has none, and the server takes every user that has the socket."""
    [secret, _] = read_objects(make(testbed, token=False))
    assert secret["token"] is None
    assert json.loads(secret["keys"])["tokens"] == []
    env = testbed.engine.planned.server_env
    assert (env["VENVD_NO_TOKEN"], env["VENVD_SOCKET_UIDS"]) == ("1", "any")


def test_parts_can_be_copied(testbed: Any) -> None:
    """No part of the text refers to another one, and a program stands there line by line."""
    text = make(testbed)["manifest"]
    assert text.count("name: science-pipe") == 2
    assert "command: |-\n  a\n  b\n" in text
    assert text.startswith('# A pipe backend of the venv "science"')


def test_the_command_prints_it(testbed: Any, tmp_path: Path) -> None:
    """`venvd backend manifest` prints what kubectl reads and nothing else; its options are fields of the request."""
    words = ("backend", "manifest", "calculator", "--venv", "science")
    options = ("--image", "app:1", "--token-version", "2", "--memory", "64m", "--env", "PLACE=here", "--network=none")
    with serve(testbed) as url:
        environment = {"VENVD_URL": url, "VENVD_TOKEN": testbed.controller.home.token, "VENVD_HOME": str(tmp_path)}
        text = cli.run(environment, *words).out
        printed = cli.run(environment, *words, *options, "--json").json
        launch = testbed.engine.planned
        assert "--ttl" in cli.run(environment, *words, "--ttl", "1h", status=2).err
    assert text == make(testbed, name="calculator")["manifest"]
    assert (printed["name"], printed["venv"]) == ("calculator", "science")
    [secret, pod] = read_objects(printed)
    assert pod["image"] == "app:1"
    assert secret["token"] == read_objects(make(testbed, "tokenVersion=2", name="calculator"))[0]["token"]
    assert (launch.limits.memory_bytes, launch.worker_env, launch.network) == (64 << 20, {"PLACE": "here"}, False)


def test_nothing_is_kept_of_it(testbed: Any) -> None:
    """There is no backend afterwards, no launch and no operation; the audit log names it, without its token."""
    operations = testbed.client.get("/v1/operations").json()
    token = read_objects(make(testbed, name="kept-nowhere"))[0]["token"]
    assert testbed.client.get("/v1/backends").json()["items"] == []
    assert testbed.engine.launches == {}
    assert testbed.client.get("/v1/operations").json() == operations
    lines = testbed.client.get("/v1/audit").json()["items"]
    [line] = [line for line in lines if line["fields"].get("name") == "kept-nowhere"]
    assert line["target"] == "/v1/backends/manifest"
    assert token not in json.dumps(lines)


def test_only_operators_get_one(testbed: Any) -> None:
    """A manifest has a token that ends with no key: a key of the venv gets none."""
    for scope, status in (("venv:science", 403), ("operator", 200)):
        key = testbed.client.post("/v1/keys", json={"name": "asks", "scope": scope}).json()["key"]
        answer = testbed.client.post(
            "/v1/backends/manifest",
            json={"type": "pipe", "venv": "science"},
            headers={"Authorization": f"Bearer {key}"},
        )
        assert answer.status_code == status
        testbed.client.delete("/v1/keys/asks")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"ttl": 60}, "ttl"),
        ({"replicas": 2}, "replicas"),
        ({"socketDir": "app"}, "socketDir"),
        ({"pipeName": "app"}, "pipeName"),
        ({"manages": ["*"]}, "manages"),
        ({"update": "rolling"}, "update"),
    ],
)
def test_what_a_pod_has_not_is_named(testbed: Any, fields: dict[str, Any], named: str) -> None:
    """A field that counts for started backends alone is refused, and named."""
    answer = make(testbed, status=400, **fields)
    assert answer["code"] == "invalid_request"
    assert answer["detail"].startswith(f"{named}: ")


def test_wrong_requests_are_refused(testbed: Any) -> None:
    """An unknown venv, a version of no token and a wrong name are errors of the request."""
    assert make(testbed, status=404, venv="absent")["code"] == "not_found"
    assert make(testbed, "tokenVersion=0", status=400)["code"] == "invalid_request"
    assert "no name for a backend" in make(testbed, status=400, name="Upper")["detail"]


def test_the_venv_must_be_ready(testbed: Any) -> None:
    """A manifest names an image: a venv that is being built, or whose image is gone, has none."""
    gate = testbed.engine.gates["build"] = threading.Event()
    _, operation = testbed.controller.venvs.put("later", VenvSpec(python="3.13", requirements=["later"]))
    assert make(testbed, status=409, venv="later")["code"] == "conflict"
    gate.set()
    testbed.wait(operation)
    key = testbed.controller.venvs.get("later").key
    make(testbed, venv="later")
    image = testbed.engine.images.pop(key)
    with pytest.raises(Conflict, match="its image is gone"):
        testbed.controller.pod_manifests.make(BackendSpec("pipe", venv="later"), None, 1)
    testbed.engine.images[key] = image


def test_secrets_are_in_no_manifest(testbed: Any) -> None:
    """No answer shows a secret, so a venv that has some gets no manifest; the error names them."""
    testbed.controller.secrets.put("venv", "science", "API_KEY", SecretSpec("very secret", env="API_KEY"))
    try:
        answer = make(testbed, status=501)
        assert "API_KEY" in answer["detail"]
        assert "very secret" not in answer["detail"]
    finally:
        testbed.controller.secrets.remove("venv", "science", "API_KEY")


def test_a_start_on_an_engine_of_pods_names_the_command(testbed: Any) -> None:
    """Where no client reaches a socket, the start of a pipe backend is not implemented, and leaves nothing."""
    testbed.engine.sockets = False
    try:
        with pytest.raises(Unimplemented, match="`venvd backend manifest science-pipe --venv science`"):
            testbed.controller.backends.start(BackendSpec("pipe", venv="science"))
        answer = testbed.client.post("/v1/backends", json={"type": "pipe", "venv": "science", "name": "app"})
        assert (answer.status_code, answer.json()["code"]) == (501, "not_implemented")
        assert "`venvd backend manifest app --venv science`" in answer.json()["detail"]
        assert testbed.client.get("/v1/backends").json()["items"] == []
    finally:
        testbed.engine.sockets = True
