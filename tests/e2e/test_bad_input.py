"""Bad input to the controller: each a clear error that names the cause, and nothing half made stays."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from harness.controller import Controller, unique

from venvd_contract.errors import InvalidRequest, NotFound

pytestmark = pytest.mark.network


def failure(controller: Controller, name: str, **spec: Any) -> str:
    """The message with which a venv fails to build; it is removed again."""
    change = controller.api("PUT", f"/v1/venvs/{name}", spec)
    done = controller.wait(change["operation"])
    assert done["state"] == "failed"
    assert controller.api("GET", f"/v1/venvs/{name}")["state"] == "failed"
    controller.api("DELETE", f"/v1/venvs/{name}")
    return str(done["error"]["detail"])


def test_an_unknown_python(controller: Controller) -> None:
    """A version that there is not is named, with those that there are."""
    operation = controller.api("PUT", "/v1/runtimes/3.99")
    done = controller.wait(operation.get("operation") or operation)
    assert done["state"] == "failed"
    assert "3.99" in done["error"]["detail"]
    assert "3.1" in done["error"]["detail"]
    controller.api("DELETE", "/v1/runtimes/3.99")


def test_no_version_at_all(controller: Controller) -> None:
    """What is no version is refused at once."""
    with pytest.raises(InvalidRequest, match="latest"):
        controller.api("PUT", "/v1/runtimes/latest")


def test_a_requirement_that_does_not_exist(controller: Controller, minor: str) -> None:
    """The package is named."""
    assert "no-such-package-of-anyone" in failure(
        controller, unique("ghost"), python=minor, requirements=["no-such-package-of-anyone"]
    )


def test_requirements_that_contradict_each_other(controller: Controller, minor: str) -> None:
    """What cannot be resolved is explained by name."""
    message = failure(controller, unique("clash"), python=minor, requirements=["python-dateutil==2.9.0", "six<1.5"])
    assert "six" in message
    assert "python-dateutil" in message


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://example.com six",
        "-r other.txt",
        "./local",
        "/etc/passwd",
        "six @ https://example.com/six.whl",
        "git+https://example.com/six",
        "six; import os",
        "six\n--extra-index-url x",
    ],
)
def test_a_line_that_is_more_than_a_requirement(controller: Controller, minor: str, line: str) -> None:
    """Options, paths and addresses are refused before anything is made, and the line is named."""
    name = unique("sly")
    with pytest.raises(InvalidRequest):
        controller.api("PUT", f"/v1/venvs/{name}", {"python": minor, "requirements": [line]})
    with pytest.raises(NotFound):
        controller.api("GET", f"/v1/venvs/{name}")


@pytest.mark.parametrize("name", ["No", "a_b", "-a", "a" * 64, "a..b"])
def test_a_name_that_is_no_label(controller: Controller, name: str) -> None:
    """The rule for names is told."""
    with pytest.raises(InvalidRequest, match="letters"):
        controller.api("PUT", f"/v1/venvs/{name}", {})


@pytest.mark.parametrize("token", [None, "wrong", "é"])
def test_a_wrong_token(controller: Controller, token: str | None) -> None:
    """No token and a wrong one are 401 with problem details."""
    if token == "é":
        token = "%C3%A9"
    status, problem = controller.raw("GET", "/v1/venvs", token=token)
    assert status == 401
    assert problem["code"] == "unauthenticated"


def test_a_port_in_use(controller: Controller, small: str) -> None:
    """A port that was asked for and is taken is an error that names it; no backend stays."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        name = unique("port")
        started = controller.api("POST", "/v1/backends", {"venv": small, "type": "http", "name": name, "port": port})
        done = controller.wait(started["operation"])
    assert done["state"] == "failed"
    assert str(port) in done["error"]["detail"]
    assert controller.api("GET", f"/v1/backends/{name}")["state"] == "failed"
    controller.api("DELETE", f"/v1/backends/{name}")


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[1]", 400), (b"\xff\xfe", 400), (b'{"requirements": "numpy"}', 400), (b"[" * 10_000_000, 413)],
)
def test_a_body_that_is_wrong(controller: Controller, body: bytes, status: int) -> None:
    """What is not JSON, has wrong fields or 10 MB of brackets gets its code, never a 500."""
    found, problem = controller.raw("PUT", "/v1/venvs/wrong", body)
    assert found in {status, 400, 413}
    assert problem["code"] in {"invalid_request", "too_large"}
    assert json.dumps(problem)


def test_unknown_paths_are_problems_too(controller: Controller) -> None:
    """404 and 405 have problem details like every error."""
    for method, path in (("GET", "/v1/nothing"), ("PATCH", "/v1/venvs")):
        status, problem = controller.raw(method, path)
        assert problem["status"] == status
        assert problem["code"]
