"""The audit log: what it says of requests, what it does not say, and that it stays bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from venvd_contract.internal.audit import ServerEvent, ServerEvents
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller.audit import AuditLog, describe_fields
from venvd_controller.database import Database
from venvd_engines.engine import LaunchRecord

pytestmark = pytest.mark.slow

FIELDS = ("key", "method", "target", "status", "code", "fields")


@pytest.fixture
def read_log(shared_testbed: Any) -> Callable[..., list[dict[str, Any]]]:
    """Read the newest lines of the log, with the query of the arguments."""
    return lambda **query: shared_testbed.client.get("/v1/audit", params=query).json()["items"]


def send(testbed: Any, token: str, method: str, path: str, **options: Any) -> Any:
    return testbed.client.request(method, path, headers={"Authorization": f"Bearer {token}"}, **options)


def test_a_change_is_one_line(shared_testbed: Any, read_log: Callable[..., Any]) -> None:
    """A line says who changed what, from where, and with what result; reading leaves no line."""
    client = shared_testbed.client
    token = client.post("/v1/keys", json={"name": "ci", "scope": "venv:app"}).json()["key"]
    body = {"python": "3.13", "env": {"PASSWORD": "hush"}, "labels": {"a": "b"}, "network": False}
    send(shared_testbed, token, "PUT", "/v1/venvs/app", json=body)
    send(shared_testbed, token, "GET", "/v1/venvs/app")
    newest, created = read_log(limit=2)
    changed = {"python": "3.13", "env": ["PASSWORD"], "labels": {"a": "b"}}
    assert [newest[name] for name in FIELDS] == ["ci", "PUT", "/v1/venvs/app", 202, None, changed]
    assert newest["peer"] == "testclient"
    assert datetime.fromisoformat(newest["time"]) <= datetime.now(UTC)
    shown = {"name": "ci", "scope": "venv:app"}
    assert [created[name] for name in FIELDS] == ["admin", "POST", "/v1/keys", 201, None, shown]
    send(shared_testbed, token, "PUT", "/v1/venvs/app", json={**body, "labels": {}})
    assert read_log(limit=1)[0]["fields"] == {"labels": {}}


def test_no_line_holds_a_secret(shared_testbed: Any, read_log: Callable[..., Any]) -> None:
    """Values of variables and passwords in addresses are not in the log, whatever becomes of the request."""
    client = shared_testbed.client
    requirement = "six @ https://me:hush-hush@example.org/six.whl"
    client.put("/v1/venvs/Wrong", json={"env": {"A": "hush-hush"}, "requirements": [requirement]})
    line = read_log(limit=1)[0]
    assert (line["status"], line["code"]) == (400, "invalid_request")
    assert line["fields"]["env"] == ["A"]
    assert "hush-hush" not in str(line)
    client.post("/v1/keys", json={"name": "hidden", "scope": "metrics"})
    assert "vk_" not in str(read_log(limit=1))


def test_secrets_are_hidden_wherever_they_are() -> None:
    """Fields with secrets are hidden at any depth and of any type, and passwords up to the last @ of an address."""
    shown = describe_fields(
        {
            "env": ["A=hush"],
            "server": {"token": "hush", "env": {"B": "hush"}, "pages": [{"key": 5, "code": {"hush": 1}}]},
            "token": False,
            "requirements": ["a @ https://me:hu/sh@hush@example.org/a.whl", "b"],
            "labels": {"https://me:hush@example.org": "https://example.org/a"},
        }
    )
    assert shown == {
        "env": "…",
        "server": {"token": "…", "env": ["B"], "pages": [{"key": "…", "code": "…"}]},
        "token": False,
        "requirements": ["a @ https://…@example.org/a.whl", "b"],
        "labels": {"https://…@example.org": "https://example.org/a"},
    }


def test_a_body_without_end_leaves_the_names_of_its_fields() -> None:
    """What is nested too deeply to be read is not read."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert describe_fields({"a": deep, "b": 1}) == {"a": "…", "b": "…"}


def test_a_defect_is_a_line(shared_testbed: Any, read_log: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that ends in an unexpected error may have changed something."""

    def fail(_name: str) -> None:
        raise RuntimeError("a fault of this test")

    monkeypatch.setattr(shared_testbed.controller.venvs, "delete", fail)
    assert shared_testbed.client.delete("/v1/venvs/app").status_code == 500
    line = read_log(limit=1)[0]
    assert [line[name] for name in FIELDS] == ["admin", "DELETE", "/v1/venvs/app", 500, "internal", {}]


def test_a_large_request_leaves_the_names_of_its_fields(shared_testbed: Any, read_log: Callable[..., Any]) -> None:
    """A line is bounded, as its request is not."""
    shared_testbed.client.put("/v1/venvs/large", json={"labels": {f"n{i}": "x" * 90 for i in range(100)}})
    assert read_log(limit=1)[0]["fields"] == {"labels": "…"}


def test_equal_refusals_are_counted_in_one_line(
    shared_testbed: Any, read_log: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """Wrong tokens leave one line, and then one with the number of the others; the metrics count each."""
    client, audit = shared_testbed.client, shared_testbed.controller.audit
    labels = ("unauthenticated", "socket")
    before = audit.refused[labels]
    for _ in range(8):
        assert send(shared_testbed, "wrong", "DELETE", "/v1/venvs/app").status_code == 401
    audit.write_merged(everything=True)

    def list_refusals() -> list[dict[str, Any]]:
        return [line for line in read_log(limit=50) if line["status"] == 401]

    lines = list_refusals()
    assert sum(line["count"] for line in lines) == 8
    assert len(lines) <= 3
    assert {(line["key"], line["code"], line["target"]) for line in lines} == {
        (None, "unauthenticated", "/v1/venvs/app")
    }
    assert audit.refused[labels] == before + 8
    counted = f'venvd_refused_requests_total{{code="unauthenticated",peer="socket"}} {before + 8}'
    assert counted in client.get("/metrics").text


def test_a_missing_scope_is_in_the_log(
    shared_testbed: Any, read_log: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """Also a request that only reads is there if its key may not read."""
    client = shared_testbed.client
    token = client.post("/v1/keys", json={"name": "nosy", "scope": "venv:app"}).json()["key"]
    assert send(shared_testbed, token, "GET", "/v1/keys").status_code == 403
    line = wait_until(lambda: read_log(key="nosy"))[0]
    assert [line[name] for name in FIELDS] == ["nosy", "GET", "/v1/keys", 403, "forbidden", {}]


def test_the_log_is_read_by_time_key_and_page(shared_testbed: Any, read_log: Callable[..., Any]) -> None:
    """`since`, `key` and `after` choose lines."""
    client = shared_testbed.client
    token = client.post("/v1/keys", json={"name": "paged", "scope": "venv:paged"}).json()["key"]
    for number in range(3):
        send(shared_testbed, token, "PUT", "/v1/venvs/paged", json={"labels": {"number": str(number)}})
    first = client.get("/v1/audit", params={"key": "paged", "limit": 2}).json()
    second = client.get("/v1/audit", params={"key": "paged", "limit": 2, "after": first["next"]}).json()
    numbers = [line["fields"]["labels"]["number"] for line in first["items"] + second["items"]]
    assert (numbers, second["next"]) == (["2", "1", "0"], None)
    assert len(read_log(key="paged", since=first["items"][-1]["time"])) >= 2
    assert read_log(since="2999-01-01T00:00:00Z") == []
    for wrong in ({"since": "yesterday"}, {"since": "2030-01-01T00:00:00"}, {"after": "x"}):
        assert client.get("/v1/audit", params=wrong).status_code == 400


def test_an_unknown_path_leaves_no_line(shared_testbed: Any, read_log: Callable[..., Any]) -> None:
    """A request that no route takes changes nothing."""
    before = read_log(limit=1)
    shared_testbed.client.post("/v1/nothing", json={})
    assert read_log(limit=1) == before


def test_the_oldest_lines_go(database: Database) -> None:
    """The log keeps as many lines as the setting says."""
    audit = AuditLog(database, 10)
    for number in range(25):
        audit.write("ci", "127.0.0.1", "PUT", f"/v1/venvs/v{number}", 200, None, {})
    audit.prune()
    lines = audit.list_all(None, 100, None, None)
    assert [line.target for line in lines] == [f"/v1/venvs/v{number}" for number in range(24, 14, -1)]


def test_refusals_of_many_peers_stay_bounded(database: Database) -> None:
    """Ten thousand peers leave a thousand lines and one for all others, with the right sum."""
    audit = AuditLog(database, 100_000)
    threads = [
        threading.Thread(
            target=lambda part=part: [
                audit.count_refusal(None, f"10.0.{part}.{number}", "GET", "/", 401, "unauthenticated")
                for number in range(2500)
            ]
        )
        for part in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.write_merged()
    lines = audit.list_all(None, 20_000, None, None)
    assert len(lines) == 1001
    assert sum(line.count for line in lines) == 10_000
    audit.write_merged()
    assert len(audit.list_all(None, 20_000, None, None)) == 1001


def test_failed_requests_of_a_key_stay_bounded(shared_testbed: Any, read_log: Callable[..., Any]) -> None:
    """So many a minute have lines of their own; the others are one line with their number and some of their paths."""
    client = shared_testbed.client
    token = client.post("/v1/keys", json={"name": "weak", "scope": "venv:weak"}).json()["key"]
    for number in range(100):
        assert send(shared_testbed, token, "PUT", "/v1/venvs/weak", json={"python": f"{number}"}).status_code == 400
    shared_testbed.controller.audit.write_merged(everything=True)
    lines = read_log(key="weak", limit=1000)
    assert sum(line["count"] for line in lines) == 100
    assert len(lines) <= 60 + 3
    assert {line["status"] for line in lines} == {400}


def test_a_merged_line_names_what_was_tried(database: Database) -> None:
    """Refusals of one peer are one line, which names a bounded number of paths."""
    audit = AuditLog(database, 100)
    audit.count_refusal("ci", "192.0.2.1", "GET", "/v1/keys", 403, "forbidden")
    audit.write_merged()
    for number in range(50):
        audit.count_refusal("ci", "192.0.2.1", "PUT", f"/v1/venvs/v{number}", 403, "forbidden")
    audit.write_merged()
    assert len(audit.list_all(None, 10, None, None)) == 1
    audit.write_merged(everything=True)
    merged, first = audit.list_all(None, 10, None, None)
    assert (first.count, first.fields) == (1, {})
    assert (merged.count, merged.fields["requests"]) == (50, [f"PUT /v1/venvs/v{number}" for number in range(20)])


def test_numbers_that_json_lacks_are_text() -> None:
    """Every database takes what the log says of a request, whatever its body holds."""
    shown = describe_fields({"a": float("nan"), "b": [float("inf"), -float("inf"), 1.5], "c\0": "x\0\ud800"})
    assert shown == {"a": "nan", "b": ["inf", "-inf", 1.5], "c\ufffd": "x\ufffd?"}


def add_backend(testbed: Any, name: str) -> Any:
    """Start a backend on the engine in memory, and return its launch."""
    testbed.controller.venvs.put("app", VenvSpec(python="3.13"))
    _, operation = testbed.controller.backends.start(BackendSpec(name=name, venv="app", type="http"))
    testbed.wait(operation)
    return testbed.engine.find_backend(name)


def test_the_log_has_the_events_of_servers(testbed: Any, wait_until: Callable[..., Any]) -> None:
    """Each event of a server is in the log once, with what was lost; the last ones come before the server ends."""
    backend, audit = add_backend(testbed, "events"), testbed.controller.audit

    def read() -> list[Any]:
        return [line for line in audit.list_all(None, 100, None, None) if line.target.startswith("/backends/")][::-1]

    moment = "2030-01-31T12:00:00.000Z"
    created = ServerEvent(moment, "session.create", "ci", "192.0.2.1", "s\0", None)
    refused = ServerEvent(moment, "token.refuse", None, "192.0.2.9", None, "unauthenticated", "unknown", count=7)
    backend.events = ServerEvents("life-3", 1, [created, refused])
    wait_until(lambda: len(read()) == 3)
    events = {
        line.method: (line.target, line.key, line.peer, line.status, line.code, line.count, line.time == moment)
        for line in read()
    }
    assert events == {
        "audit.drop": ("/backends/events", None, "server", 200, None, 1, False),
        "session.create": ("/backends/events/sessions/s\ufffd", "ci", "192.0.2.1", 200, None, 1, True),
        "token.refuse": ("/backends/events", None, "192.0.2.9", 401, "unauthenticated", 7, True),
    }
    assert backend.asked == [""]
    failed = ServerEvent(moment, "session.delete", "ci", "192.0.2.1", "s", "not_found", "there is none")
    backend.events = ServerEvents("life-4", 0, [failed])
    wait_until(lambda: len(read()) == 4)
    assert (read()[-1].status, read()[-1].fields) == (404, {"detail": "there is none"})
    assert backend.asked == ["", "life-3"]
    testbed.controller.reconciler.stop()
    testbed.controller.reconciler._pool.shutdown()  # a turn may be reading events still
    backend.events = ServerEvents("life-5", 0, [created])
    row = testbed.controller.backends.get_row("events")
    audit.write_events("events", "life-3", ServerEvents("life-9", 0, [created]))  # another reader was faster
    assert len(read()) == 4
    testbed.controller.reconciler._events.collect_last(row, LaunchRecord(**row.record))
    assert len(read()) == 5


def test_the_log_has_the_end_of_a_backend(testbed: Any, wait_until: Callable[..., Any]) -> None:
    """A worker host that ends: the log has what the server told until then, and that the backend ended by itself."""
    backend, audit = add_backend(testbed, "fallen"), testbed.controller.audit
    wait_until(lambda: testbed.controller.backends.get("fallen").state == "running")
    testbed.controller.reconciler.stop()
    backend.events = ServerEvents("life-1", 0, [ServerEvent("2030-01-31T12:00:00Z", "session.create", "ci", "", "s")])
    row = testbed.controller.backends.get_row("fallen")
    testbed.controller.reconciler._events.collect_end(row, "the worker host is exited (status 1)")
    ended, created = audit.list_all(None, 2, None, None)
    assert (created.method, created.target) == ("session.create", "/backends/fallen/sessions/s")
    assert (ended.method, ended.target, ended.peer, ended.key) == (
        "backend.end",
        "/backends/fallen",
        "controller",
        None,
    )
    assert ended.fields["detail"].startswith("the worker host is exited (status 1); ")


def test_many_events_of_one_key_stay_bounded(testbed: Any, wait_until: Callable[..., Any]) -> None:
    """A client that makes sessions all the time does not push the lines of others out of the log."""
    backend, audit = add_backend(testbed, "busy"), testbed.controller.audit
    event = [
        ServerEvent("2030-01-31T12:00:00Z", "session.create", "ci", "192.0.2.1", f"s{number}") for number in range(900)
    ]
    backend.events = ServerEvents("life-900", 0, event)
    lines = wait_until(lambda: audit.list_all(None, 1000, None, "ci"))
    assert sum(line.count for line in lines) == 900
    assert len(lines) == 121
    assert len(lines[0].fields["requests"]) == 20


def test_a_server_that_sends_no_events_is_told_of_once(
    testbed: Any, wait_until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """What is no page of events changes nothing, and the backend runs on."""
    backend = add_backend(testbed, "odd")
    for body in (b"", b'{"position": 5}', b'{"position": "a-1", "events": [{"time": 5}]}'):
        before = len(backend.asked)
        backend.raw_events = body
        backend.events = ServerEvents("life-1")
        wait_until(lambda before=before: len(backend.asked) > before + 3)
    told = [each.getMessage() for each in caplog.records if "its events are not in the audit log" in each.getMessage()]
    assert len(told) == len(set(told)) == 2  # two of the bodies have the same fault
    assert testbed.controller.backends.get("odd").state == "running"
