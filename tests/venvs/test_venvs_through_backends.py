"""Venvs managed through the three servers, with the rights of the caller and without a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from harness.bench import PYTHON
from harness.controller import Controller, unique

from venvd_contract.errors import Conflict, InvalidRequest, NotFound, Unauthenticated, Unavailable

from .conftest import ASK, TRANSPORTS, open_venvs  # type: ignore[import-not-found]

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def backends(controller: Controller) -> Iterator[dict[str, Any]]:
    """A backend of each type. They have no token, and user code has no network."""
    controller.api("PUT", f"/v1/runtimes/{PYTHON}", {})
    controller.venv("base", python=PYTHON)
    with controller.backends("base", TRANSPORTS, token=False) as started:
        yield started


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_a_venv_is_made_listed_and_deleted(controller: Controller, backends: dict[str, Any], kind: str) -> None:
    """Every command does at the controller what it says."""
    ask, backend, token = ASK[kind], backends[kind], controller.token
    name = unique("made")
    spec = {"python": PYTHON, "requirements": [], "labels": {"by": kind}}
    change = ask(backend, "venv.create", token, {"name": name, "spec": spec, "wait": True})
    assert (change["venv"]["name"], change["venv"]["state"]) == (name, "ready")
    assert controller.api("GET", f"/v1/venvs/{name}")["spec"]["labels"] == {"by": kind}
    assert ask(backend, "venv.status", token, {"name": name})["python"].startswith(f"{PYTHON}.")
    assert name in [venv["name"] for venv in ask(backend, "venv.list", token, {})["items"]]
    assert ask(backend, "venv.delete", token, {"name": name}) == {"success": True}
    with pytest.raises(NotFound, match=name):
        ask(backend, "venv.status", token, {"name": name})


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_refusals_pass_through(controller: Controller, backends: dict[str, Any], kind: str) -> None:
    """Code and message are the controller's: a name that is taken, a wrong field, an unknown token, none at all."""
    ask, backend, token = ASK[kind], backends[kind], controller.token
    with pytest.raises(Conflict, match='"base" exists already'):
        ask(backend, "venv.create", token, {"name": "base"})
    with pytest.raises(InvalidRequest, match="name"):
        ask(backend, "venv.create", token, {"name": "No Name"})
    with pytest.raises(Unauthenticated, match="not one that this controller accepts"):
        ask(backend, "venv.create", "vk_unknown", {"name": "other"})
    with pytest.raises(Unauthenticated, match="send an access key of the controller"):
        ask(backend, "venv.list", None, {})


def test_a_provider_gets_its_venv_in_the_older_words(controller: Controller, backends: dict[str, Any]) -> None:
    """`providerName` and `modelId` are answered with `path` and `success`, when the venv is built."""
    payload = {"providerName": "Older", "modelId": "m-1"}
    answer = ASK["http"](backends["http"], "venv.ensure", controller.token, payload)
    assert set(answer) == {"path", "success"}
    assert answer["success"] is True
    change = ASK["rpc"](backends["rpc"], "venv.ensure", controller.token, {"provider": "Older", "model": "m-1"})
    assert change["venv"]["state"] == "ready"
    assert change["path"] == answer["path"]
    controller.api("DELETE", f"/v1/venvs/{change['venv']['name']}")


def test_an_operation_is_followed(controller: Controller, backends: dict[str, Any]) -> None:
    """The stream of an operation tells its phases, and ends with the operation."""
    from venvd_proto.v1.venv_service_pb2 import CreateEnvironmentRequest, EnvironmentSpec, FollowOperationRequest

    channel, venvs = open_venvs(backends["rpc"])
    metadata = [("authorization", f"Bearer {controller.token}")]
    request = CreateEnvironmentRequest(name=unique("followed"), spec=EnvironmentSpec(python=PYTHON))
    operation = venvs.CreateEnvironment(request, metadata=metadata, timeout=120).operation
    events = list(venvs.FollowOperation(FollowOperationRequest(id=operation.id), metadata=metadata, timeout=120))
    channel.close()
    assert events[0].phase
    assert [event.WhichOneof("event") for event in events].index("done") == len(events) - 1
    assert (events[-1].done.id, events[-1].done.state) == (operation.id, "succeeded")


def test_no_controller_is_unavailable(controller: Controller, backends: dict[str, Any]) -> None:
    """While the controller is away, venvs are `unavailable` and calls go on; afterwards both work."""
    token = controller.token
    controller.stop()
    try:
        for kind in TRANSPORTS:
            with pytest.raises(Unavailable, match="the controller does not answer"):
                ASK[kind](backends[kind], "venv.list", token, {})
    finally:
        controller.start()
    for kind in TRANSPORTS:
        assert ASK[kind](backends[kind], "venv.list", token, {})["items"]
