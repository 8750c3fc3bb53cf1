"""Access: which token opens which path, and how errors look."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from venvd_controller.app import create_app
from venvd_controller.controller import Controller
from venvd_http import docs

from .conftest import opened_client  # type: ignore[import-not-found]

pytestmark = pytest.mark.slow

GUARDED = ["/v1/venvs", "/v1/backends", "/v1/operations", "/v1/runtimes", "/v1/status", "/v1/config"]


@pytest.mark.parametrize("path", GUARDED)
def test_every_path_needs_a_token(shared_client: TestClient, path: str) -> None:
    """Every path but the probes answers a request without a token with problem details."""
    answer = shared_client.get(path, headers={"Authorization": ""})
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthenticated"
    assert answer.headers["www-authenticate"].split()[0] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_metrics_token_opens_metrics_only(client: TestClient, controller: Controller) -> None:
    """A scraper's token opens metrics and discovery and nothing else."""
    headers = {"Authorization": f"Bearer {controller.home.metrics_token}"}
    assert client.get("/metrics", headers=headers).status_code == 200
    assert client.get("/v1/sd/prometheus", headers=headers).json() == []
    refused = client.get("/v1/venvs", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


def test_secrets_are_not_in_the_config(client: TestClient, controller: Controller) -> None:
    """`/v1/config` shows settings and gaps of the engine, and no token."""
    answer = client.get("/v1/config")
    assert controller.home.token not in answer.text
    assert "VENVD_ENGINE" in {setting["name"] for setting in answer.json()["settings"]}
    assert any("network" in gap for gap in answer.json()["gaps"])


def test_a_misspelt_setting_is_told(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/v1/config` names variables that are nearly settings, and no others."""
    monkeypatch.setenv("VENVD_LOG_LEVL", "debug")
    monkeypatch.setenv("VENVD_TEST_LOG_LEVEL", "debug")
    told = [line for line in client.get("/v1/config").json()["missing"] if "no such setting" in line]
    assert told == ["VENVD_LOG_LEVL: there is no such setting; is VENVD_LOG_LEVEL meant?"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "says"),
    [
        ("GET", "/v1/nothing", None, 404, "not_found", "/docs"),
        ("PATCH", "/v1/venvs", None, 405, "invalid_request", "PATCH"),
        ("PUT", "/v1/venvs/a", "{", 400, "invalid_request", "JSON"),
        ("PUT", "/v1/venvs/a", '{"requirements": "numpy"}', 400, "invalid_request", "requirements"),
        ("PUT", "/v1/venvs/a", '{"requirements": ["-r x"]}', 400, "invalid_request", "-r x"),
        ("PUT", "/v1/venvs/a", '{"python": "latest"}', 400, "invalid_request", "3.13"),
        ("PUT", "/v1/venvs/a", '{"env": {"VENVD_X": "1"}}', 400, "invalid_request", "VENVD_X"),
        ("PUT", "/v1/venvs/A", "{}", 400, "invalid_request", "lower-case"),
        ("POST", "/v1/backends", '{"type": "ftp"}', 400, "invalid_request", "http, pipe, rpc"),
        ("POST", "/v1/backends", '{"type": "http", "venv": "ghost"}', 404, "not_found", "ghost"),
        ("POST", "/v1/backends", '{"type": "http", "port": 70000}', 400, "invalid_request", "65535"),
        ("POST", "/v1/backends", '{"type": "pipe", "port": 1}', 400, "invalid_request", "socket"),
        ("POST", "/v1/backends", '{"type": "rpc", "httpPort": 0}', 400, "invalid_request", "httpPort must be 1 to"),
        ("POST", "/v1/backends", '{"type": "http", "httpPort": 1}', 400, "invalid_request", "type rpc"),
        ("POST", "/v1/backends", '{"type": "rpc", "port": 7, "httpPort": 7}', 400, "invalid_request", "both 7"),
        ("POST", "/v1/backends", '{"type": "http", "pipeName": "a"}', 400, "invalid_request", "no pipe"),
        ("POST", "/v1/backends", '{"type": "pipe", "pipeName": "/a"}', 400, "invalid_request", "socketDir"),
        ("POST", "/v1/backends", '{"type": "pipe", "pipeName": "a/b"}', 400, "invalid_request", "1 to 64"),
        ("POST", "/v1/backends", '{"type": "pipe", "pipeName": "Anonymous"}', 400, "invalid_request", "reserves"),
        ("POST", "/v1/backends", '{"type": "pipe", "pipeName": "' + "ä" * 60 + '"}', 400, "invalid_request", "bytes"),
        ("POST", "/v1/backends", '{"type": "http", "socketDir": "a"}', 400, "invalid_request", "socketDir"),
        ("POST", "/v1/backends", '{"type": "pipe", "socketDir": "/etc"}', 400, "invalid_request", "VENVD_RUN_DIR"),
        ("POST", "/v1/backends", '{"type": "pipe", "socketDir": "../a"}', 400, "invalid_request", "VENVD_RUN_DIR"),
        (
            "POST",
            "/v1/backends",
            '{"type": "pipe", "socketDir": "keys-a"}',
            400,
            "invalid_request",
            "is reserved for directories of venvd",
        ),
        (
            "POST",
            "/v1/backends",
            '{"type": "pipe", "socketDir": "controller-a"}',
            400,
            "invalid_request",
            "is reserved for directories of venvd",
        ),
        ("POST", "/v1/backends", '{"type": "pipe", "socketDir": "."}', 400, "invalid_request", "VENVD_RUN_DIR"),
        ("POST", "/v1/backends", '{"type": "pipe", "socketDir": "a/b"}', 400, "invalid_request", "VENVD_RUN_DIR"),
        ("POST", "/v1/backends", '{"type": "pipe", "socketDir": "\\u0000"}', 400, "invalid_request", "VENVD_RUN_DIR"),
        ("POST", "/v1/backends", '{"type": "http", "token": false, "host": "0.0.0.0"}', 403, "forbidden", "0.0.0.0"),
        ("POST", "/v1/backends", '{"type": "http", "limits": {"cpus": 0}}', 400, "invalid_request", "cpus"),
        ("POST", "/v1/backends", '{"type": "http", "limits": {"cpus": NaN}}', 400, "invalid_request", "cpus"),
        ("POST", "/v1/backends", '{"type": "http", "timeout": 1e999}', 400, "invalid_request", "timeout"),
        ("POST", "/v1/backends", '{"type": "http", "host": "example.org"}', 400, "invalid_request", "127.0.0.1"),
        ("POST", "/v1/backends", '{"type": "http", "labels": {"a b": "x"}}', 400, "invalid_request", "a b"),
        ("POST", "/v1/backends", "{}", 400, "invalid_request", "type"),
        ("PUT", "/v1/venvs/a", '{"env": {"A": "x\\u0000"}}', 400, "invalid_request", "env.A"),
        ("PUT", "/v1/venvs/a", '{"env": {"A": "\\ud800"}}', 400, "invalid_request", "surrogate"),
        ("PUT", "/v1/venvs/a", '{"\\ud800": 1}', 400, "invalid_request", "surrogate"),
        ("PUT", "/v1/venvs/a", "[]", 400, "invalid_request", "body"),
        ("GET", "/v1/venvs?limit=0", None, 400, "invalid_request", "limit"),
        ("GET", "/v1/operations/ghost", None, 404, "not_found", "ghost"),
        ("PUT", "/v1/venvs/a", "[" * 900_000, 400, "invalid_request", ""),
        ("PUT", "/v1/venvs/a", " " * 9_000_000, 413, "too_large", "8388608"),
    ],
)
def test_bad_input_is_named(
    shared_client: TestClient, method: str, path: str, body: str | None, status: int, code: str, says: str
) -> None:
    """Each wrong request gets its code, and the detail names the cause."""
    answer = shared_client.request(method, path, content=body, headers={"Content-Type": "application/json"})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["status"]) == (status, code, status)
    assert says in problem["detail"]


def test_the_schema_describes_every_route(shared_client: TestClient) -> None:
    """OpenAPI has the models of requests and responses."""
    schema = shared_client.get("/openapi.json").json()
    assert {"VenvSpec", "BackendSpec", "Backend", "OperationInfo"} <= set(schema["components"]["schemas"])
    assert "/v1/backends/{name}/restart" in schema["paths"]


def test_lists_are_paged(client: TestClient) -> None:
    """`limit` and `after` visit each item of a list once."""
    for version in ("3.97", "3.98", "3.99"):
        client.put(f"/v1/runtimes/{version}")
    first = client.get("/v1/runtimes?limit=2").json()
    second = client.get(f"/v1/runtimes?limit=2&after={first['next']}").json()
    assert [item["version"] for item in first["items"] + second["items"]] == ["3.97", "3.98", "3.99"]
    assert second["next"] is None


def test_a_deleted_item_does_not_break_paging(client: TestClient) -> None:
    """The next page begins after the last item, even if that was deleted meanwhile."""
    for version in ("3.97", "3.98", "3.99"):
        client.put(f"/v1/runtimes/{version}")
    first = client.get("/v1/runtimes?limit=1").json()
    assert client.delete(f"/v1/runtimes/{first['next']}").status_code == 204
    rest = client.get(f"/v1/runtimes?after={first['next']}").json()
    assert [item["version"] for item in rest["items"]] == ["3.98", "3.99"]


def test_absent_and_null_are_the_same(client: TestClient) -> None:
    """A null field has its default."""
    body = {"python": None, "requirements": None, "env": None, "network": None, "colour": None}
    spec = client.put("/v1/venvs/nulls", json=body).json()["venv"]["spec"]
    assert spec == client.put("/v1/venvs/plain", json={}).json()["venv"]["spec"]


@pytest.mark.parametrize(
    ("method", "path", "body", "says"),
    [
        ("PUT", "/v1/venvs/a", {"requirments": []}, '"requirments" is unknown; is "requirements" meant?'),
        ("PUT", "/v1/venvs/a", {"colour": "red"}, '"colour" is unknown; known are python, requirements, '),
        ("POST", "/v1/venvs/a/run", {"code": "1", "timeOut": 3}, '"timeOut" is unknown; is "timeout" meant?'),
        ("POST", "/v1/backends", {"type": "http", "memory": 1}, '"memory" is unknown; '),
        ("POST", "/v1/backends", {"type": "http", "limits": {"cpu": 1}}, '"limits.cpu" is unknown; is "cpus" meant?'),
        ("PUT", "/v1/runtimes/default", {"version": "3.13", "verson": 1}, '"verson" is unknown; is "version" meant?'),
        ("PUT", "/v1/providers/a", {"requirement": []}, '"requirement" is unknown; is "requirements" meant?'),
        ("PUT", "/v1/providers/a/venv", {"pakages": []}, '"pakages" is unknown; '),
        ("POST", "/v1/keys", {"name": "a", "scope": "admin", "expires": "x"}, '"expires" is unknown; is "expiresAt"'),
    ],
)
def test_an_unknown_field_is_refused(shared_client: TestClient, method: str, path: str, body: Any, says: str) -> None:
    """The error names the field and the most similar known one."""
    answer = shared_client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert says in answer.json()["detail"]


def test_the_schema_closes_the_objects_of_requests(shared_client: TestClient) -> None:
    """The OpenAPI document says that requests have no other fields, at each depth."""
    schemas = shared_client.get("/openapi.json").json()["components"]["schemas"]
    closed = {name for name, schema in schemas.items() if schema.get("additionalProperties") is False}
    assert {"VenvSpec", "BackendSpec", "BackendLimits", "ProviderSpec", "NewKey", "VenvRun", "Default"} <= closed
    assert not {"Venv", "Backend", "OperationInfo"} & closed


def test_the_documentation_is_open(shared_client: TestClient) -> None:
    """Pages and schema need no token, and name no other host."""
    for path in docs.PATHS:
        page = shared_client.get(path, headers={"Authorization": ""})
        assert page.status_code == 200
        assert page.headers["x-content-type-options"] == "nosniff"
    assert "//" not in shared_client.get("/docs").text.replace("<!doctype html>", "")


def test_a_browser_opens_closed_documentation_with_the_token_as_password(create_testbed: Any) -> None:
    """With VENVD_OPEN_DOCS=0 the pages for browsers, and they alone, accept Basic credentials."""
    testbed = create_testbed(open_docs=False)
    with opened_client(testbed.controller) as client:
        basic = ("anyone", testbed.controller.home.token)
        for path in docs.PATHS:
            assert client.get(path, headers={"Authorization": ""}).status_code == 401
            assert client.get(path, headers={"Authorization": ""}, auth=basic).status_code == 200
        assert client.get("/v1/venvs", headers={"Authorization": ""}, auth=basic).status_code == 401
        assert client.get("/docs", headers={"Authorization": ""}, auth=("anyone", "wrong")).status_code == 401
    testbed.close()


def test_without_a_token_paths_and_bodies_are_not_checked(shared_client: TestClient) -> None:
    """The guard runs before routing and parsing."""
    for method, path, body in (("GET", "/v1/nothing", ""), ("PUT", "/v1/venvs/a", "{"), ("PATCH", "/v1/venvs", "")):
        answer = shared_client.request(method, path, content=body, headers={"Authorization": "Bearer wrong"})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_the_metrics_token_only_reads(client: TestClient, controller: Controller, method: str) -> None:
    """The metrics token changes nothing on the paths that it opens."""
    headers = {"Authorization": f"Bearer {controller.home.metrics_token}"}
    assert client.request(method, "/v1/backends/x/metrics", headers=headers).status_code == 405
    body = {"type": "http"}
    assert client.request(method, "/v1/backends", headers=headers, json=body).status_code in {403, 405}


def test_the_same_put_at_the_same_time_is_one_build(client: TestClient) -> None:
    """Clients that put the same venv at the same time share one operation."""
    spec = {"python": "3.98", "requirements": ["six"]}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.put("/v1/venvs/shared", json=spec), range(4)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert any(answer.json()["operation"] for answer in answers)
    assert len(client.get("/v1/venvs").json()["items"]) == 1


def test_a_stopped_controller_is_not_found(controller: Controller) -> None:
    """The controller removes its address when it stops."""
    address = controller.home.path / "url"
    controller.home.announce("http://127.0.0.1:1")
    with TestClient(create_app(controller)):
        assert address.exists()
    assert not address.exists()
