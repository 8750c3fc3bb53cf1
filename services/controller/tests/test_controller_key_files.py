"""The key files of servers: what is in them, and that they follow the keys."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from venvd_contract.errors import InvalidRequest, Unavailable
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller.key_files import KeyFiles

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def controller(shared_testbed: Any) -> Any:
    """A controller with the backend `demo` of the venv `app`."""
    controller = shared_testbed.controller
    controller.venvs.put("app", VenvSpec(python="3.13"))
    controller.keys.create("early", ["use:demo"], None)
    controller.backends.start(BackendSpec("http", venv="app", name="demo"))
    shared_testbed.await_running("demo")
    return controller


@pytest.fixture
def read_file(shared_testbed: Any) -> Callable[[], dict[str, Any]]:
    """Read the key file of the backend: its entries by the names of the keys."""
    return lambda: {
        entry["name"]: entry for entry in json.loads(shared_testbed.engine.find_backend("demo").keys)["keys"]
    }


def test_a_launch_begins_with_the_keys_of_its_time(controller: Any, shared_testbed: Any) -> None:
    """The server has its keys from its first moment on."""
    launch = shared_testbed.engine.find_backend("demo").launch
    assert "early" in {entry["name"] for entry in json.loads(launch.keys)["keys"]}


def test_a_key_that_ends_during_a_start_does_not_last(
    controller: Any, shared_testbed: Any, wait_until: Callable[..., Any]
) -> None:
    """A server whose launch was planned before a key was revoked gets a file without the key."""
    engine = shared_testbed.engine
    controller.keys.create("late", ["use:held"], None)
    engine.gates["start"] = threading.Event()
    try:
        steps = engine.steps.count("start")
        controller.backends.start(BackendSpec("http", venv="app", name="held"))
        wait_until(lambda: engine.steps.count("start") > steps)
        controller.keys.revoke("late")
    finally:
        engine.gates.pop("start").set()
    shared_testbed.await_running("held")
    launched = engine.find_backend("held")
    assert b'"late"' in launched.launch.keys
    wait_until(lambda: b'"late"' not in launched.keys)


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        (["admin"], "use"),
        (["operator"], "use"),
        (["venv:app"], "use"),
        (["use:demo"], "use"),
        (["metrics"], "metrics"),
        (["metrics", "use:demo"], "use"),
        (["venv:other"], None),
        (["use:other", "venv:application"], None),
    ],
)
def test_a_file_holds_the_keys_that_cover_the_backend(
    controller: Any,
    read_file: Callable[[], Any],
    wait_until: Callable[..., Any],
    scopes: list[str],
    expected: str | None,
) -> None:
    """Each key is in the file with what it may do there, if anything, and leaves it when it is revoked."""
    token = controller.keys.create("tried", scopes, "2999-01-01T00:00:00Z").key
    controller.keys.create("after", ["use:demo"], None)
    wait_until(lambda: "after" in read_file())
    entry = {
        "name": "tried",
        "sha256": hashlib.sha256(token.encode()).hexdigest(),
        "scope": expected,
        "expiresAt": "2999-01-01T00:00:00.000Z",
    }
    assert read_file().get("tried") == (entry if expected else None)
    controller.keys.revoke("tried")
    controller.keys.revoke("after")
    wait_until(lambda: not {"tried", "after"} & set(read_file()))


def test_a_file_that_could_not_be_written_is_written_later(
    controller: Any, shared_testbed: Any, read_file: Callable[[], Any], wait_until: Callable[..., Any]
) -> None:
    """While the engine fails, the keys of the server are old; then they are repaired without a further change."""
    engine = shared_testbed.engine
    engine.faults["write_keys"] = Unavailable("a fault of this test")
    engine.steps.clear()
    controller.keys.create("late", ["use:demo"], None)
    wait_until(lambda: "write_keys" in engine.steps)
    assert "late" not in read_file()
    engine.faults.clear()
    wait_until(lambda: "late" in read_file())
    controller.keys.revoke("late")


def test_a_file_that_something_else_changed_is_repaired(
    controller: Any,
    shared_testbed: Any,
    read_file: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., Any],
) -> None:
    """Every file is written again from time to time."""
    monkeypatch.setattr("venvd_controller.key_files._REPAIR_SECONDS", 0.0)
    controller.keys.create("again", ["use:demo"], None)
    wait_until(lambda: "again" in read_file())
    shared_testbed.engine.find_backend("demo").keys = b'{"keys": []}'
    wait_until(lambda: "again" in read_file())
    controller.keys.revoke("again")


def test_one_broken_launch_leaves_the_keys_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be replaced is told, and the next backend gets its keys, and its files of the host."""
    written = []
    refreshed = []

    def refresh(record: Any) -> None:
        if record.launch_id == "broken":
            raise InvalidRequest("another fault of this test")
        refreshed.append(record.launch_id)

    def write(record: Any, data: bytes) -> None:
        if record.launch_id == "broken":
            raise PermissionError("a fault of this test")
        written.append(record.launch_id)

    record = {"engine": "memory", "url": "", "probe_url": "", "data": {}}
    rows = [
        SimpleNamespace(name=name, venv="app", launch=name, record={**record, "launch_id": name})
        for name in ("broken", "whole")
    ]
    keys: Any = SimpleNamespace(on_change=[], render_file=lambda _row: b"{}")
    secrets: Any = SimpleNamespace(
        on_change=[], render_files=lambda rows: dict.fromkeys([row.name for row in rows], b"")
    )
    engine: Any = SimpleNamespace(write_keys=write, write_secrets=lambda _record, _data: None, refresh_files=refresh)
    backends: Any = SimpleNamespace(list_rows=lambda: rows, on_change=[])
    KeyFiles(engine, keys, secrets, backends).update()
    assert written == refreshed == ["whole"]
    assert "broken: its server has old keys: a fault of this test" in caplog.text
    assert "broken: its server has old files: another fault of this test" in caplog.text
