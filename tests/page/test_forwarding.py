"""Calls of HTTP backends that pass through the controller: whose they are, when they end, and who is refused."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness.browsers import create_key
from harness.controller import Controller
from harness.waiting import wait_until

pytestmark = pytest.mark.slow

EXEC = "/v1/backends/demo/exec"


def execute(controller: Controller, code: str, token: str | None = "") -> tuple[int, Any]:
    return controller.raw("POST", EXEC, json.dumps({"code": code}).encode(), token)


def read_busy(controller: Controller) -> int:
    """The calls that run at the backend."""
    (backend,) = [each for each in controller.api("GET", "/v1/backends")["items"] if each["name"] == "demo"]
    connection = http.client.HTTPConnection(backend["url"].removeprefix("http://"), timeout=30)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {backend['token']}"})
    text = connection.getresponse().read().decode()
    connection.close()
    return int(
        float(next(line for line in text.splitlines() if line.startswith("venvd_requests_in_flight ")).split()[1])
    )


def await_busy(controller: Controller, number: int) -> None:
    wait_until(lambda: read_busy(controller) == number, lambda: f"{read_busy(controller)} calls run")


@contextmanager
def streaming(controller: Controller, code: str, token: str) -> Iterator[http.client.HTTPResponse]:
    """An `exec` whose events are read as they come; the end of the block leaves it."""
    connection = http.client.HTTPConnection("127.0.0.1", controller.port, timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream", "Content-Type": "application/json"}
    connection.request("POST", EXEC, json.dumps({"code": code}), headers)
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def test_a_call_has_the_name_of_its_key(controller: Controller) -> None:
    """The backend knows the caller by its key; the audit log has sessions, and no calls that passed through."""
    key = controller.api("POST", "/v1/keys", {"name": "forwarded", "scope": ["use:demo"]})["key"]
    status, output = execute(controller, "print(6 * 7)", key)
    assert (status, output["stdout"]) == (200, "42\n")
    status, session = controller.raw("POST", "/v1/backends/demo/sessions", b"{}", key)
    assert status == 200

    def find_event() -> bool:
        entries = controller.api("GET", "/v1/audit?key=forwarded")["items"]
        assert EXEC not in [entry["target"] for entry in entries]
        return "session.create" in [entry["method"] for entry in entries]

    wait_until(find_event, "the audit log does not have the event of the backend")
    assert controller.raw("DELETE", f"/v1/backends/demo/sessions/{session['id']}", token=key)[0] == 200


def test_the_token_of_the_home_stays_at_home(controller: Controller) -> None:
    """The admin's calls reach the backend with the token of the backend, which has never seen the admin's."""
    assert execute(controller, "1")[0] == 200
    status, _ = controller.raw("GET", "/v1/backends/demo/sessions")
    assert status == 200


def test_output_streams(controller: Controller) -> None:
    """Events come while the code runs, and a client that leaves ends the call at the backend."""
    key = create_key(controller, "venv:plain")
    with streaming(controller, "print('begun', flush=True)\nimport time\nwhile True: time.sleep(0.01)", key) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.readline() == b"event: stdout\n"
        await_busy(controller, 1)
    await_busy(controller, 0)


def test_a_call_without_events_ends_with_its_client(controller: Controller) -> None:
    """A client that waits for one answer and leaves ends its call as well."""
    connection = http.client.HTTPConnection("127.0.0.1", controller.port, timeout=60)
    headers = {"Authorization": f"Bearer {controller.token}", "Content-Type": "application/json"}
    connection.request("POST", EXEC, json.dumps({"code": "while True: pass"}), headers)
    await_busy(controller, 1)
    connection.close()
    await_busy(controller, 0)


def test_only_those_who_may_use_the_backend(controller: Controller) -> None:
    """A key for something else is refused, by name, before anything reaches the backend."""
    for scope in ("use:other", "venv:other", "metrics"):
        status, problem = execute(controller, "1", create_key(controller, scope))
        assert status in {403, 404}, (scope, problem)
    assert execute(controller, "1", None)[0] == 401


def test_errors_are_those_of_the_backend(controller: Controller) -> None:
    """The backend's refusals come as they are, and unknown paths are the controller's."""
    status, problem = controller.raw("POST", EXEC, b'{"cod": "1"}')
    assert (status, problem["code"]) == (400, "invalid_request")
    status, problem = controller.raw("POST", "/v1/backends/demo/sessions/absent/interrupt")
    assert (status, problem["code"]) == (404, "not_found")
    assert controller.raw("POST", "/v1/backends/demo/eval", b"{}")[0] == 404
    assert controller.raw("POST", "/v1/backends/absent/exec", b"{}")[0] == 404


def test_one_caller_has_a_bounded_number(controller: Controller) -> None:
    """Of one caller sixteen calls pass at a time; a further one is busy, and others are not."""
    key, other = create_key(controller, "use:demo"), create_key(controller, "use:demo")
    code = "import time\nprint('begun', flush=True)\ntime.sleep(300)"
    held = [streaming(controller, code, key) for _ in range(16)]
    for each in held:
        each.__enter__()
    try:
        status, problem = execute(controller, "1", key)
        assert (status, problem["code"]) == (429, "busy")
        assert controller.raw("GET", "/v1/backends/demo/sessions", token=other)[0] == 200
    finally:
        for each in held:
            each.__exit__(None, None, None)
    await_busy(controller, 0)
