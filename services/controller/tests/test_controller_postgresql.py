"""A controller whose database is a PostgreSQL server: keys, audit log, backends, and every column."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness.postgresql import Cluster, running_cluster
from sqlalchemy import inspect

from venvd_contract.internal.audit import ServerEvent, ServerEvents
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller.database import Database, connect, open_database
from venvd_controller.database.tables import Table

from .conftest import Testbed, running_testbed  # type: ignore[import-not-found]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, postgresql: Cluster) -> Iterator[Testbed]:
    """A controller over the engine in memory, with a database of its own on PostgreSQL."""
    with running_testbed(home=tmp_path_factory.mktemp("home"), database_url=postgresql.create_database()) as testbed:
        yield testbed


def test_the_migrations_make_the_tables(postgresql: Cluster) -> None:
    """The schema is that of the program, and a second start finds it as it is."""
    url = postgresql.create_database()
    for _ in range(2):
        database: Database = open_database(url)
        inspector = inspect(database.engine)
        for name, table in Table.metadata.tables.items():
            assert {each["name"] for each in inspector.get_columns(name)} == set(table.c.keys()), name
        database.close()


def test_the_server_notices_a_controller_whose_machine_is_gone() -> None:
    """Connections have short keepalives: a transaction of a lost leader does not block the next one for hours."""
    with running_cluster("127.0.0.1") as cluster:
        engine = connect(cluster.create_database())
        with engine.connect() as connection:
            connection.rollback()
            values = [
                connection.exec_driver_sql(f"SHOW tcp_keepalives_{name}").scalar()
                for name in ("idle", "interval", "count")
            ]
        engine.dispose()
    assert values == ["5", "2", "3"]


def test_keys_live_and_end(place: Testbed) -> None:
    """A key is made once, listed, used, and gone when it is revoked."""
    client = place.client
    token = client.post("/v1/keys", json={"name": "ci", "scope": ["venv:app", "metrics"]}).json()["key"]
    assert client.post("/v1/keys", json={"name": "ci", "scope": "metrics"}).status_code == 409

    def ask(each: str) -> int:
        return int(client.get("/v1/venvs/app", headers={"Authorization": f"Bearer {each}"}).status_code)

    assert (ask(token), ask("vk_unknown")) == (404, 401)
    place.controller.keys.flush()
    place.controller.keys._load()
    listed = {each["name"]: each for each in client.get("/v1/keys").json()["items"]}
    assert listed["ci"]["scope"] == ["venv:app", "metrics"]
    assert listed["ci"]["lastUsedAt"] is not None
    assert client.delete("/v1/keys/ci").status_code == 204
    assert ask(token) == 401


def test_the_audit_log_is_written_read_and_pruned(place: Testbed, wait_until: Callable[..., Any]) -> None:
    """Queries by key, time and page give the right lines, also for numbers and characters that PostgreSQL lacks."""
    client, audit = place.client, place.controller.audit
    token = client.post("/v1/keys", json={"name": "odd", "scope": "venv:odd"}).json()["key"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = r'{"labels": {"a\u0000": "x\u0000\ud800"}, "timeout": NaN, "more": [Infinity]}'
    assert client.put("/v1/venvs/odd", content=body, headers=headers).status_code == 400
    assert client.put("/v1/venvs/odd%00%ED%A0%80", content="{}", headers=headers).status_code in {400, 403}
    audit.write_merged(everything=True)
    lines = client.get("/v1/audit", params={"key": "odd", "limit": 100}).json()["items"]
    assert len(lines) == 2
    assert lines[1]["fields"] == {"labels": {"a\ufffd": "x\ufffd?"}, "timeout": "nan", "more": ["inf"]}
    page = client.get("/v1/audit", params={"key": "odd", "limit": 1}).json()
    later = client.get("/v1/audit", params={"key": "odd", "limit": 1, "after": page["next"]}).json()
    assert [each["id"] for each in (*page["items"], *later["items"])] == [each["id"] for each in lines]
    since = client.get("/v1/audit", params={"since": lines[0]["time"]}).json()["items"]
    assert all(each["time"] >= lines[0]["time"] for each in since)
    assert client.get("/v1/audit", params={"since": "2999-01-01T00:00:00Z"}).json()["items"] == []
    audit._limit, audit._pruned_at = 3, float("-inf")
    audit.prune()
    assert len(audit.list_all(None, 100, None, None)) <= 3


def test_the_events_of_a_server_are_in_the_log_once(place: Testbed, wait_until: Callable[..., Any]) -> None:
    """A position moves with its lines, and a page that comes late changes nothing."""
    controller, audit = place.controller, place.controller.audit
    controller.venvs.put("app", VenvSpec(python="3.13"))
    place.wait(controller.backends.start(BackendSpec(name="events", venv="app", type="http"))[1])
    events = [ServerEvent("2030-01-31T12:00:00Z", "session.create", "caller", "::1", "s\0\ud800")]
    audit.write_events("events", None, ServerEvents("life\0-1", 0, events))
    audit.write_events("events", None, ServerEvents("life-0", 0, events))
    (line,) = audit.list_all(None, 10, None, "caller")
    assert line.target == "/backends/events/sessions/s\ufffd?"
    assert controller.backends.get_row("events").audit_position == "life\ufffd-1"
    controller.backends.request_removal("events")
    wait_until(lambda: "events" not in [row.name for row in controller.backends.list_rows()])
