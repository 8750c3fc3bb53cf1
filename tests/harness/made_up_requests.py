"""Requests that schemathesis makes up from an OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import schemathesis
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.pytest._test_builder import build_operation_test

SETTINGS = hypothesis.settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit],  # the examples, and the borders of each field
)


def list_labels(document: dict[str, Any]) -> list[str]:
    """Name the operations of a document as schemathesis does: `GET /v1/status`."""
    return [f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods]


class MadeUpRequests:
    """Makes up the requests of one operation when its test asks for them.

    `parametrize()` of schemathesis makes those of all operations when pytest collects, in each test process of a run.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._schema = schemathesis.openapi.from_dict(document)
        operations = [result.ok() for result in self._schema.get_all_operations()]
        self._operations = {operation.label: operation for operation in operations}

    def check(self, label: str, check: Callable[[schemathesis.Case], None]) -> None:
        """Call `check` with each request of the operation."""

        def check_case(case: schemathesis.Case) -> None:
            check(case)

        build_operation_test(
            config=self._schema.config,
            operation=self._operations[label],
            test_func=check_case,
            given_kwargs={},
            feedback=FeedbackSources(),
            explicit_settings=SETTINGS,
        )()
