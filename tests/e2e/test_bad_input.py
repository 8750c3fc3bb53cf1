"""Bad input to the controller: each error is clear and names the cause, and nothing incomplete stays."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from harness.controller import Controller, unique

from venvd_contract.errors import InvalidRequest, NotFound

pytestmark = pytest.mark.network


def fail_build(controller: Controller, name: str, **spec: Any) -> str:
    """Put a venv that cannot be built, delete it, and return the message of its error."""
    change = controller.api("PUT", f"/v1/venvs/{name}", spec)
    ended = controller.wait(change["operation"])
    assert ended["state"] == "failed"
    assert controller.api("GET", f"/v1/venvs/{name}")["state"] == "failed"
    controller.api("DELETE", f"/v1/venvs/{name}")
    return str(ended["error"]["detail"])


@pytest.mark.about("controller")
def test_an_unknown_python(controller: Controller) -> None:
    """The error names the unknown version and the available ones."""
    change = controller.api("PUT", "/v1/runtimes/3.99")
    ended = controller.wait(change["operation"])
    assert ended["state"] == "failed"
    assert "3.99" in ended["error"]["detail"]
    assert "3.1" in ended["error"]["detail"]
    controller.api("DELETE", "/v1/runtimes/3.99")


@pytest.mark.about("controller")
def test_a_word_that_is_not_a_version(controller: Controller) -> None:
    """A word that cannot be a version is refused at once."""
    with pytest.raises(InvalidRequest, match="latest"):
        controller.api("PUT", "/v1/runtimes/latest")


@pytest.mark.about("controller")
def test_a_requirement_that_does_not_exist(controller: Controller, minor: str) -> None:
    """The error names the package."""
    package = "no-such-package-of-anyone"
    assert package in fail_build(controller, unique("ghost"), python=minor, requirements=[package])


@pytest.mark.about("controller")
def test_requirements_that_contradict_each_other(controller: Controller, minor: str) -> None:
    """The error names the packages that cannot be installed together."""
    requirements = ["python-dateutil==2.9.0", "six<1.5"]
    message = fail_build(controller, unique("clash"), python=minor, requirements=requirements)
    assert "six" in message
    assert "python-dateutil" in message


@pytest.mark.about("controller")
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
    """Options, paths and addresses are refused, and no venv is created."""
    name = unique("sly")
    with pytest.raises(InvalidRequest):
        controller.api("PUT", f"/v1/venvs/{name}", {"python": minor, "requirements": [line]})
    with pytest.raises(NotFound):
        controller.api("GET", f"/v1/venvs/{name}")


@pytest.mark.about("controller")
@pytest.mark.parametrize("name", ["No", "a_b", "-a", "a" * 64, "a..b"])
def test_a_name_that_is_not_a_label(controller: Controller, name: str) -> None:
    """The error states the rule for names."""
    with pytest.raises(InvalidRequest, match="letters"):
        controller.api("PUT", f"/v1/venvs/{name}", {})


@pytest.mark.about("controller")
@pytest.mark.parametrize("token", [None, "wrong", "%C3%A9"])
def test_a_wrong_token(controller: Controller, token: str | None) -> None:
    """A missing and a wrong token are 401 with problem details."""
    status, problem = controller.raw("GET", "/v1/venvs", token=token)
    assert status == 401
    assert problem["code"] == "unauthenticated"


def test_a_port_in_use(controller: Controller, small: str) -> None:
    """The error of a requested port that is taken names the port; the backend is failed."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        name = unique("port")
        started = controller.api("POST", "/v1/backends", {"venv": small, "type": "http", "name": name, "port": port})
        ended = controller.wait(started["operation"])
    assert ended["state"] == "failed"
    assert str(port) in ended["error"]["detail"]
    assert controller.api("GET", f"/v1/backends/{name}")["state"] == "failed"
    controller.api("DELETE", f"/v1/backends/{name}")


@pytest.mark.about("controller")
@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[1]", 400), (b"\xff\xfe", 400), (b'{"requirements": "numpy"}', 400), (b"[" * 10_000_000, 413)],
)
def test_a_wrong_body(controller: Controller, body: bytes, status: int) -> None:
    """Invalid JSON, wrong fields and 10 MB of brackets get their code, never a 500."""
    actual, problem = controller.raw("PUT", "/v1/venvs/wrong", body)
    assert actual in {status, 400, 413}
    assert problem["code"] in {"invalid_request", "too_large"}
    assert json.dumps(problem)


@pytest.mark.about("controller")
def test_unknown_paths_are_problems_too(controller: Controller) -> None:
    """404 and 405 have problem details like every error."""
    for method, path in (("GET", "/v1/nothing"), ("PATCH", "/v1/venvs")):
        status, problem = controller.raw(method, path)
        assert problem["status"] == status
        assert problem["code"]
