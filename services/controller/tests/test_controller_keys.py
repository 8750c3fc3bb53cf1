"""Keys: who may do what, and when a key ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from fastapi.testclient import TestClient
from sqlalchemy import text

from venvd_contract.errors import Unauthenticated, Unavailable
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller.auth import OPEN
from venvd_controller.database import Database, migrations

pytestmark = pytest.mark.slow

SCOPES = ("admin", "operator", "venv:app", "venv:other", "venv:provider-x", "use:app-http", "use:other-http", "metrics")
BODIES = {"/v1/backends": {"type": "http", "venv": "app"}, "/v1/keys": {"name": "A", "scope": "admin"}}
"""Bodies of the requests that need a right one to come as far as the check of the scope."""


class Place:
    """A controller with two venvs, a backend of each, and a key of each scope."""

    def __init__(self, testbed: Any) -> None:
        self.testbed = testbed
        self.controller = testbed.controller
        self.client: TestClient = testbed.client
        for name in ("app", "other"):
            self.client.put(f"/v1/venvs/{name}", json={"python": "3.13"}).raise_for_status()
            started = self.client.post("/v1/backends", json={"type": "http", "venv": name}).json()
            testbed.await_running(started["backend"]["name"])
            self.operation = self.operation if name == "other" else started["operation"]["id"]
        self.keys = {scope: self.create(scope.replace(":", "-") + "-key", scope) for scope in SCOPES}

    def create(self, name: str, scope: str | list[str], **fields: str) -> str:
        """Create a key and return its token."""
        answer = self.client.post("/v1/keys", json={"name": name, "scope": scope, **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["key"])

    def send(self, token: str, method: str, path: str, **options: Any) -> Any:
        return self.client.request(method, path, headers={"Authorization": f"Bearer {token}"}, **options)

    def last_use(self, name: str) -> str | None:
        """Return when a key was last used."""
        keys = self.client.get("/v1/keys?limit=1000").json()["items"]
        return next(key["lastUsedAt"] for key in keys if key["name"] == name)

    def list_routes(self) -> list[tuple[str, str, list[str]]]:
        """List method, path and scopes of each route of the schema, those that delete something last."""
        paths = self.client.get("/openapi.json").json()["paths"]
        routes = [
            (method.upper(), path, [scope for each in operation.get("security", ()) for scope in each["HTTPBearer"]])
            for path, operations in paths.items()
            for method, operation in operations.items()
        ]
        return sorted(routes, key=lambda route: route[0] == "DELETE")

    def fill(self, path: str) -> tuple[str, dict[str, str]]:
        """Return a path with names for its parameters, and what the braces in the scopes of its route stand for."""
        names = {
            "name": "app",
            "venv": "app",
            "version": "3.13",
            "provider": "x",
            "key": self.operation,
            "session": "s",
            "secret": "S",
        }
        if path.startswith("/v1/backends"):
            names["name"] = "app-http"
        if path.startswith("/v1/providers"):
            names["venv"] = "provider-x"
        return path.format(**names), names


@pytest.fixture(scope="module")
def place(shared_testbed: Any) -> Place:
    return Place(shared_testbed)


def covers(scope: str, needed: str) -> bool:
    """What docs/access.md says of the scopes."""
    if scope == "admin" or (scope == "operator" and needed != "admin"):
        return True
    return scope == needed or (needed.endswith(":*") and scope.startswith(needed[:-1]))


def test_every_route_admits_the_scopes_that_it_names(place: Place) -> None:
    """Each route of the schema admits the scopes that it names there, and refuses every other by name; a backend that
    a key does not cover is answered for as an absent one.
    """
    wrong, refusals = [], []
    for method, path, declared in place.list_routes():
        address, names = place.fill(path)
        needed = [scope.format(**names) for scope in declared]
        if path not in OPEN:
            assert needed, f"{method} {path} names no scope"
        refused = [scope for scope in SCOPES if needed and not any(covers(scope, each) for each in needed)]
        refusals += [(method, path, address, scope, needed) for scope in refused]
    for method, path, address, scope, needed in refusals:
        answer = place.send(place.keys[scope], method, address, json=BODIES.get(path, {}))
        if "/backends/{name}" in path and scope.startswith("venv:") and scope != "venv:app":
            said = answer.status_code == 404 and answer.json()["detail"] == 'no backend "app-http"'
        elif "/backends/{name}" in path and scope not in {"use:app-http", "venv:app"}:
            said = answer.status_code == 403 and all(
                word in answer.json()["detail"] for word in ("use:app-http", scope)
            )
        else:
            said = answer.status_code == 403 and all(word in answer.json()["detail"] for word in (*needed, scope))
        wrong += [] if said else [(method, path, scope, answer.status_code, answer.text)]
    for method, path, _ in place.list_routes():
        for scope in SCOPES:
            address, _ = place.fill(path)
            if not any(each[:2] == (method, path) and each[3] == scope for each in refusals):
                answer = place.send(place.keys[scope], method, address, json=BODIES.get(path, {}))
                wrong += [(method, path, scope, answer.status_code)] if answer.status_code in {401, 403} else []
    assert wrong == []


@pytest.mark.parametrize("scope", ["venv:other", "use:other-http", "metrics"])
def test_a_key_does_not_learn_which_backends_there_are(place: Place, scope: str) -> None:
    """A backend that the key does not cover and an absent one get the same answer, without the name of a third."""

    def read(name: str) -> tuple[int, str]:
        answer = place.send(place.keys[scope], "GET", f"/v1/backends/{name}")
        return answer.status_code, answer.json()["detail"].replace(name, "NAME")

    assert read("app-http") == read("app-httq")
    assert "meant" not in read("app-httq")[1]


def test_a_key_is_shown_once_and_stored_as_a_digest(place: Place) -> None:
    """Neither a later answer nor a file of the home holds the token of a key."""
    token = place.create("once", ["use:app-http", "metrics"], expiresAt="2999-01-01T00:00:00+01:00")
    assert token.startswith("vk_")
    listed = {key["name"]: key for key in place.client.get("/v1/keys?limit=1000").json()["items"]}
    assert listed["once"]["scope"] == ["use:app-http", "metrics"]
    assert listed["once"]["expiresAt"] == "2998-12-31T23:00:00.000Z"
    assert listed["once"]["key"] is None
    files = [path for path in place.controller.home.path.rglob("*") if path.is_file()]
    assert [path for path in files if token.encode() in path.read_bytes()] == []


def test_a_revoked_key_is_refused_at_once(place: Place) -> None:
    """After the revocation, the key is unknown, and its name is free."""
    token = place.create("short", "operator")
    assert place.send(token, "GET", "/v1/status").status_code == 200
    assert place.client.delete("/v1/keys/short").status_code == 204
    assert place.send(token, "GET", "/v1/status").status_code == 401
    assert place.client.delete("/v1/keys/short").status_code == 404
    assert place.send(place.create("short", "operator"), "GET", "/v1/status").status_code == 200


def test_an_expired_key_is_refused_by_name(place: Place, wait_until: Callable[..., Any]) -> None:
    """A key ends at its time, the refusal says so, and the list still shows it."""
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    token = place.create("brief", "operator", expiresAt=soon)
    wait_until(lambda: place.send(token, "GET", "/v1/status").status_code == 401)
    assert 'the key "brief" expired' in place.send(token, "GET", "/v1/status").json()["detail"]
    listed = {key["name"]: key["expired"] for key in place.client.get("/v1/keys?limit=1000").json()["items"]}
    assert (listed["brief"], listed["admin-key"]) == (True, False)


def test_a_stream_ends_with_its_key(place: Place, wait_until: Callable[..., Any]) -> None:
    """A log that is followed ends soon after the key is revoked."""
    token = place.create("follower", "venv:other")
    answers = []
    follow = "/v1/backends/other-http/logs?follow=true"
    thread = threading.Thread(target=lambda: answers.append(place.send(token, "GET", follow)), daemon=True)
    thread.start()
    wait_until(lambda: place.last_use("follower"))
    place.client.delete("/v1/keys/follower")
    thread.join(120)
    assert [answer.status_code for answer in answers] == [200]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"name": "Bad", "scope": "admin"}, 400, "lower-case"),
        ({"name": "admin", "scope": "use:app-http"}, 400, "choose another"),
        ({"name": "bad", "scope": "root"}, 400, "use:BACKEND"),
        ({"name": "bad", "scope": "venv:"}, 400, "venv"),
        ({"name": "bad", "scope": "venv:*"}, 400, "venv"),
        ({"name": "bad", "scope": []}, 400, "scope"),
        ({"name": "bad", "scope": 7}, 400, "scope"),
        ({"name": "bad"}, 400, "scope"),
        ({"name": "bad", "scope": "admin", "expiresAt": "tomorrow"}, 400, "expiresAt"),
        ({"name": "bad", "scope": "admin", "expiresAt": "2999-01-01T00:00:00"}, 400, "RFC 3339"),
        ({"name": "bad", "scope": "admin", "expiresAt": "2001-01-01T00:00:00Z"}, 400, "past"),
        ({"name": "operator-key", "scope": "admin"}, 409, "operator-key"),
    ],
)
def test_a_wrong_key_is_refused_with_the_reason(place: Place, body: Any, status: int, says: str) -> None:
    """The answer to a wrong request for a key names what is wrong."""
    answer = place.client.post("/v1/keys", json=body)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text


def test_lists_show_what_a_key_may_see(place: Place) -> None:
    """The lists of venvs, backends and operations hold what the key covers, and nothing else."""

    def list_names(scope: str, path: str, field: str) -> set[str]:
        return {item[field] for item in place.send(place.keys[scope], "GET", path).json()["items"]}

    assert list_names("venv:app", "/v1/venvs", "name") == {"app"}
    assert list_names("use:app-http", "/v1/venvs", "name") == set()
    assert {"app", "other"} <= list_names("operator", "/v1/venvs", "name")
    assert list_names("use:other-http", "/v1/backends", "name") == {"other-http"}
    assert list_names("venv:other", "/v1/backends", "name") == {"other-http"}
    assert "other-http" not in list_names("venv:app", "/v1/operations", "target")
    assert {"other-http", "app-http"} <= list_names("operator", "/v1/operations", "target")
    assert list_names("use:app-http", "/v1/operations", "target") == set()


def test_only_operators_see_the_tokens_of_backends(place: Place) -> None:
    """The resource of a backend has no token for a key that ends with its revocation."""
    path = "/v1/backends/other-http"
    tokens = {scope: place.send(place.keys[scope], "GET", path).json()["token"] for scope in ("operator", "admin")}
    assert tokens["operator"] == tokens["admin"] != ""
    for scope in ("venv:other", "use:other-http"):
        shown = place.send(place.keys[scope], "GET", path).json()
        assert (shown["token"], shown["url"] is not None) == (None, True)
        listed = place.send(place.keys[scope], "GET", "/v1/backends").json()["items"]
        assert {backend["token"] for backend in listed} == {None}
    restarted = place.send(place.keys["venv:other"], "POST", f"{path}/restart").json()
    assert restarted["backend"]["token"] is None
    place.testbed.wait(place.controller.operations.get(restarted["operation"]["id"]))
    place.testbed.await_running("other-http")


def test_the_token_of_a_backend_may_only_use_it(place: Place) -> None:
    """The controller knows the token of a backend, and the refusal says what it may do."""
    token = place.client.get("/v1/backends/other-http").json()["token"]
    assert token.startswith("vd_")
    assert place.send(token, "GET", "/v1/backends/other-http").json()["token"] is None
    refused = place.send(token, "PUT", "/v1/venvs/other", json={})
    assert refused.status_code == 403
    assert "needs venv:other" in refused.json()["detail"]
    assert "has use:other-http" in refused.json()["detail"]
    assert place.send("vd_" + "0" * 48, "GET", "/v1/venvs").status_code == 401


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"network": False}, 202),
        ({"network": "loopback"}, 202),
        ({"network": True}, 403),
        ({"token": False}, 403),
        ({"host": "0.0.0.0"}, 403),
        ({"host": "127.0.0.2"}, 202),
        ({"host": "localhost"}, 202),
        ({"port": 80}, 403),
        ({"queueLimit": 500}, 202),
        ({"queueLimit": 5000}, 403),
        ({"server": {"maxSessions": 1000}}, 403),
        ({"labels": {"a": "b"}}, 403),
        ({"ociRuntime": "runc"}, 403),
        ({"env": {"A": "b"}, "timeout": 5.0, "limits": {"cpus": 1.5, "memoryBytes": 1 << 30}}, 202),
        ({"limits": {"cpus": 64.0}}, 403),
        ({"limits": {"memoryBytes": 1 << 40}}, 403),
        ({"limits": {"processes": 4096}}, 403),
    ],
)
def test_a_key_of_a_venv_loosens_no_guard_of_its_backends(place: Place, fields: Any, status: int) -> None:
    """A key of a venv starts backends of it, but not with fields that reach the host or loosen a guard."""
    body = {"type": "http", "venv": "app", **fields}
    answer = place.send(place.keys["venv:app"], "POST", "/v1/backends", json=body)
    assert answer.status_code == status, answer.text
    if status == 403:
        assert f'the field "{next(iter(fields))}"' in answer.json()["detail"]
    else:
        place.client.delete(f"/v1/backends/{answer.json()['backend']['name']}")


def test_a_key_of_a_venv_keeps_what_an_operator_set(place: Place) -> None:
    """A guarded field of a venv keeps its value if the key of the venv sends the default, and refuses another."""
    key = place.keys["venv:app"]
    refused = place.send(key, "PUT", "/v1/venvs/app", json={"python": "3.13", "network": True})
    assert (refused.status_code, '"network"' in refused.json()["detail"]) == (403, True)
    place.send(place.keys["operator"], "PUT", "/v1/venvs/app", json={"python": "3.13", "network": True})
    for network in (None, False, True):
        body = {"python": "3.13", "env": {"A": str(network)}, "network": network}
        spec = place.send(key, "PUT", "/v1/venvs/app", json=body).json()["venv"]["spec"]
        assert (spec["network"], spec["env"]) == (True, {"A": str(network)})
    inherited = {"type": "http", "venv": "app", "network": True}
    started = place.send(key, "POST", "/v1/backends", json=inherited)
    assert started.status_code == 202
    assert started.json()["backend"]["spec"]["network"] is None  # the venv's, at each start
    place.client.delete(f"/v1/backends/{started.json()['backend']['name']}")
    place.client.put("/v1/venvs/app", json={"python": "3.13"})


def test_a_key_of_a_venv_does_not_replace_a_failed_backend_of_another(place: Place) -> None:
    """A failed backend is replaced by a new one of its name, but not by the key of another venv."""
    place.testbed.engine.faults["start"] = Unavailable("a fault of this test")
    failed = place.client.post("/v1/backends", json={"type": "http", "venv": "other", "name": "taken"}).json()
    place.testbed.wait(place.controller.operations.get(failed["operation"]["id"]))
    place.testbed.engine.faults.clear()
    body = {"type": "http", "venv": "app", "name": "taken"}
    assert place.send(place.keys["venv:app"], "POST", "/v1/backends", json=body).status_code == 409
    assert place.client.get("/v1/backends/taken").json()["venv"] == "other"
    place.client.delete("/v1/backends/taken")


def test_the_last_use_of_a_key_is_shown_and_kept(place: Place) -> None:
    """The list shows when a key was last used; the database has it after the controller's next writing."""
    token = place.create("counted", "operator")
    assert place.last_use("counted") is None
    place.send(token, "GET", "/v1/status")
    shown = place.last_use("counted")
    assert shown is not None
    place.controller.keys.flush()
    assert place.last_use("counted") == shown


def test_keys_outlive_the_controller(create_testbed: Callable[..., Any]) -> None:
    """The next controller of a home knows the keys of the one before."""
    with create_testbed().started() as first:
        token = first.controller.keys.create("stays", ["metrics"], None).key
    with create_testbed().started() as second:
        assert second.controller.keys.identify(token).name == "stays"


def test_an_unknown_token_of_a_backend_takes_no_look_into_the_database(
    shared_testbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller knows the tokens of its backends by their digests; what changes the backends changes these."""
    controller = shared_testbed.controller
    controller.venvs.put("owned", VenvSpec(python="3.13"))
    started, operation = controller.backends.start(
        BackendSpec(name="owner", venv="owned", type="http", manages=["made-*"])
    )
    shared_testbed.wait(operation)
    key = controller.backends.tokens.derive_manages_key(controller.backends.get_row("owner"))
    assert controller.keys.identify(started.token).scopes == ("use:owner",)
    reads: list[bool] = []
    read = controller.backends.list_rows
    monkeypatch.setattr(controller.backends, "list_rows", lambda: reads.append(True) or read())
    assert controller.keys.identify(key).scopes == ("venv:made-*",)
    for token in ("vd_" + "0" * 48, "vd_", "vd_\udcff"):
        with pytest.raises(Unauthenticated):
            controller.keys.identify(token)
    assert len(reads) <= 1  # a backend of another test may have gone meanwhile
    controller.backends.request_removal("owner")
    with pytest.raises(Unauthenticated):
        controller.keys.identify(key)


def test_operations_of_an_older_controller_get_their_venv(database: Database) -> None:
    """The migration shows the earlier operations of a venv to its keys, and those of removed backends to no key."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        for key, kind, target in (
            ("a", "venv.build", "app"),
            ("b", "backend.start", "gone"),
            ("c", "runtime.init", "3.13"),
        ):
            values = {"id": key, "kind": kind, "target": target}
            query = "INSERT INTO operations (id, kind, target, state, created_at, phases) "
            connection.execute(text(query + "VALUES (:id, :kind, :target, 'failed', '', '[]')"), values)
        command.upgrade(config, "head")
        rows = connection.execute(text("SELECT id, venv FROM operations ORDER BY id")).all()
    assert [tuple(row) for row in rows] == [("a", "app"), ("b", ""), ("c", None)]


def is_known(place: Place, token: str) -> bool:
    try:
        place.controller.keys.identify(token)
    except Unauthenticated:
        return False
    return True


def test_a_key_ends_although_the_keys_cannot_be_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revocation needs no reading of the database."""
    token = place.create("cut", "operator")
    keys = place.controller.keys

    def fail() -> None:
        raise Unavailable("a fault of this test")

    monkeypatch.setattr(keys, "_load", fail)
    with pytest.raises(Unavailable):
        keys.revoke("cut")
    assert not is_known(place, token)


def test_a_slow_reading_brings_no_key_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is revoked while another request reads the keys stays revoked."""
    token = place.create("raced", "operator")
    keys = place.controller.keys
    read_rows, go_on = threading.Event(), threading.Event()
    read = keys._database.read

    @contextmanager
    def read_slowly() -> Iterator[Any]:
        with read() as session:
            yield session
        if threading.current_thread() is slow:
            read_rows.set()
            go_on.wait(60)

    monkeypatch.setattr(keys._database, "read", read_slowly)
    slow = threading.Thread(target=keys._load)
    revoking = threading.Thread(target=keys.revoke, args=["raced"])
    slow.start()
    assert read_rows.wait(60)
    revoking.start()
    while any(key.name == "raced" for key in keys.list_all(None, 1000)):
        time.sleep(0.01)
    go_on.set()
    slow.join(60)
    revoking.join(60)
    assert not is_known(place, token)


def test_the_keys_are_read_again_from_time_to_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chore follows the database, also where a change was not seen."""
    token = place.create("unseen", "operator")
    keys = place.controller.keys
    with place.controller.database.write() as session:
        session.execute(text("DELETE FROM keys WHERE name = 'unseen'"))
    keys.reload()
    assert is_known(place, token)
    monkeypatch.setattr(keys, "_next_load", 0.0)
    keys.reload()
    assert not is_known(place, token)
