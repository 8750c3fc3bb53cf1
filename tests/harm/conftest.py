"""Backends on both engines whose sessions are harmed, each with a session beside it that must notice nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.callers import CALLERS, Caller
from harness.engines import ENGINES
from harness.stack import SharedStacks, Stack

from venvd_contract.errors import VenvdError

SETTINGS = {"VENVD_GRACE": "3"}
PRELOAD = ("decimal", "json")
WITNESS = "witness"


@pytest.fixture(scope="package", params=ENGINES)
def stack(request: pytest.FixtureRequest, stacks: SharedStacks) -> Stack:
    return stacks.stack(request.param)


@pytest.fixture(scope="package", params=list(CALLERS))
def backend(stacks: SharedStacks, stack: Stack, request: pytest.FixtureRequest) -> Iterator[Caller]:
    """A client of a running backend; at the end both its parts still run."""
    running = stacks.backend(stack, request.param, role="harm", preload=PRELOAD, **SETTINGS)
    made = CALLERS[request.param](running.url, running.token)
    made("session.create", {"name": WITNESS})
    made("eval", {"expression": "seen = 'unharmed'"}, session=WITNESS)
    yield made
    made("session.delete", {"id": WITNESS})
    made.close()
    assert stack.engine.inspect(running.record).running


@pytest.fixture
def call(backend: Caller) -> Iterator[Caller]:
    """Afterwards the server is healthy, and the witness has its state and its process."""
    before = process_of(backend, WITNESS)
    yield backend
    assert backend("ping") == {"status": "ok"}
    assert backend("eval", {"expression": "seen"}, session=WITNESS) == {"value": "unharmed"}
    assert process_of(backend, WITNESS) == before
    made = backend("session.create", {})["id"]
    assert backend("eval", {"expression": "'decimal' in __import__('sys').modules"}, session=made) == {"value": True}
    backend("session.delete", {"id": made})


@pytest.fixture
def victim(call: Caller) -> Iterator[str]:
    """A session of the test's own, with some state."""
    made = call("session.create", {})["id"]
    call("eval", {"expression": "kept = 1"}, session=made)
    yield str(made)
    call("session.delete", {"id": made})


def process_of(call: Caller, session: str) -> object:
    try:
        return call("eval", {"expression": "import os; os.getpid()"}, session=session)["value"]
    except VenvdError as error:
        return error
