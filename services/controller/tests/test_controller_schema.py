"""The OpenAPI document: what it says is true."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from harness.made_up_requests import MadeUpRequests, list_labels
from jsonschema_rs import validator_for
from schemathesis.specs.openapi import checks

from venvd_controller.app import describe_api
from venvd_http import openapi

from .conftest import Testbed  # type: ignore[import-not-found]
from .serving import serve  # type: ignore[import-not-found]

DOCUMENT = describe_api()
CONFORMANCE = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def test_each_operation_is_described() -> None:
    """Each operation has a summary, a sentence and examples that fit, and its errors are problem details."""
    checked = 0
    for operation in openapi.list_operations(DOCUMENT):
        assert operation["summary"] in operation["description"].replace("\n", " ")
        assert operation["responses"]["default"]["content"].keys() == {"application/problem+json"}
        for body in (operation.get("requestBody", {}), *operation["responses"].values()):
            content = body.get("content", {}).get("application/json")
            if content is not None and content["schema"].get("type") != "object":
                schema = {**content["schema"], "components": DOCUMENT["components"]}
                validator_for(schema).validate(content["example"])
                checked += 1
    assert checked > 40


@pytest.fixture(scope="module")
def url(shared_testbed: Testbed) -> Iterator[str]:
    """The address of a controller over the engine in memory."""
    with serve(shared_testbed) as address:
        yield address
    shared_testbed.client.headers["Authorization"] = f"Bearer {shared_testbed.controller.home.token}"


@pytest.fixture(scope="module")
def made_up_requests() -> MadeUpRequests:
    return MadeUpRequests(DOCUMENT)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("operation", list_labels(DOCUMENT))
def test_answers_are_as_declared(
    url: str, shared_testbed: Testbed, made_up_requests: MadeUpRequests, operation: str
) -> None:
    """No made-up request is answered by a fault of the controller, or in a way that the document does not declare."""

    def check(case: schemathesis.Case) -> None:
        case.headers["Authorization"] = f"Bearer {shared_testbed.controller.home.token}"  # a case rotates it
        answer = case.call(base_url=url, timeout=60)
        case.validate_response(answer, checks=CONFORMANCE)
        assert answer.status_code < 500 or answer.json()["code"] == "unavailable"

    made_up_requests.check(operation, check)
