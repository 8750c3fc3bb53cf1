"""The OpenAPI document and its page: what it says is true, and reading it needs no token."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import schemathesis
from harness.made_up_requests import MadeUpRequests, list_labels
from jsonschema_rs import validator_for
from schemathesis.specs.openapi import checks

from venvd_contract.commands import COMMANDS
from venvd_http import docs, openapi
from venvd_http_backend import texts
from venvd_http_backend.schema import create_schema

DOCUMENT = create_schema()
CONFORMANCE = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
PATHS = {path for path in docs.PATHS if path not in {docs.PAGE_PATH, docs.SCHEMA_PATH}}


@pytest.fixture(scope="module")
def attacked(start_server: Any) -> Any:
    """A server for requests that were made up."""
    return start_server()


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "components": DOCUMENT["components"]}


def test_the_page_needs_no_token_and_no_other_host(server: Any) -> None:
    """The page and all that it names come from the server, under a policy that forbids all else."""
    page = server.ask("GET", docs.PAGE_PATH, token=None)
    assert page.status == 200
    named = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
    assert {f"/{name}" for name in named} == PATHS | {docs.SCHEMA_PATH}
    assert "default-src 'none'; script-src 'self';" in page.headers["content-security-policy"]
    for name in named:
        part = server.ask("GET", f"/{name}", token=None)
        assert part.status == 200
        assert part.body
        assert part.headers["x-content-type-options"] == "nosniff"
    assert server.ask("GET", docs.SCHEMA_PATH, token=None).json == json.loads(json.dumps(DOCUMENT))
    assert server.ask("POST", docs.PAGE_PATH, {}, token=None).status == 405


@pytest.mark.slow
def test_the_documentation_can_be_closed(start_server: Any) -> None:
    """With VENVD_OPEN_DOCS=0 it needs the token, as all else does."""
    closed = start_server(open_docs="0")
    for path in docs.PATHS:
        refused = closed.ask("GET", path, token=None)
        assert (refused.status, refused.problem["code"]) == (401, "unauthenticated")
        assert closed.ask("GET", path).status == 200


def test_each_operation_is_described() -> None:
    """Each operation has a sentence and examples, and its errors are problem details with a code of the table."""
    for operation in openapi.list_operations(DOCUMENT):
        assert operation["description"].endswith(".")
        assert operation["responses"]["default"]["content"].keys() == {"application/problem+json"}
        bodies = [operation.get("requestBody"), *operation["responses"].values()]
        for content in (body["content"] for body in bodies if body is not None):
            if "application/json" in content:
                assert content["application/json"].keys() >= {"schema"}
                assert "example" in content["application/json"] or "examples" in content["application/json"]["schema"]
    assert "session_lost" in DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]


def test_examples_fit_their_schemas() -> None:
    """Every example is valid."""
    checked = 0
    for name, model in DOCUMENT["components"]["schemas"].items():
        for example in model.get("examples", ()):
            closed = copy.deepcopy(model) | {"additionalProperties": False}
            validator_for(_resolve(closed)).validate(example)
            checked += 1
            assert example, name
    for operation in openapi.list_operations(DOCUMENT):
        for answer in operation["responses"].values():
            content = answer.get("content", {}).get("application/json", {})
            if "example" in content:
                validator_for(_resolve(content["schema"])).validate(content["example"])
                checked += 1
    assert checked > 40


def test_examples_of_requests_work(server: Any) -> None:
    """Each example of a request gets an answer that its schema describes."""
    module = server.post("/api/import", {"moduleName": "collections"}).json["handleId"]
    for command in (each for each in COMMANDS if each.name in texts.REQUESTS):
        counter = server.post("/api/create", {**texts.REQUESTS["create"], "moduleHandleId": module}).json["handleId"]
        rows = server.post("/api/wrap", {"value": [5, 2] if command.name == "tofloatarray" else [[5, 2]]}).json[
            "handleId"
        ]
        made = {"moduleHandleId": module, "handleId": rows if "float" in command.name else counter, "handleIds": [rows]}
        path = command.http[1]
        request = {name: made.get(name, value) for name, value in texts.REQUESTS[command.name].items()}
        answer = server.ask(command.http[0], path, request)
        assert answer.status == 200, (command.name, answer.body)
        schema = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        validator_for(_resolve(schema)).validate(answer.json)


schemathesis.serializer("application/x-npy", "application/vnd.apache.arrow.stream")(lambda _, value: value)


@pytest.fixture(scope="module")
def made_up_requests() -> MadeUpRequests:
    return MadeUpRequests(DOCUMENT)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("operation", list_labels(DOCUMENT))
def test_answers_are_as_declared(attacked: Any, made_up_requests: MadeUpRequests, operation: str) -> None:
    """No made-up request is answered by a fault of the server, or in a way that the document does not declare."""

    def check(case: schemathesis.Case) -> None:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {attacked.token}"}
        answer = case.call(base_url=f"http://127.0.0.1:{attacked.port}", timeout=60)
        case.validate_response(answer, checks=CONFORMANCE)
        if answer.status_code >= 500:
            expected = {"unavailable"} if case.path.startswith("/venv/") else {"timeout"}  # it has no controller
            assert answer.json()["code"] in expected

    made_up_requests.check(operation, check)
