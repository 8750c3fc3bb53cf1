"""Updates of backends whose controller is killed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from harness.callers import CALLERS
from harness.controller import Controller, unique
from harness.waiting import wait_until


def interrupt_update(
    controller: Controller,
    python: str,
    kind: str,
    phase: str,
    count_launches: Callable[[str], int],
    **fields: Any,
) -> None:
    """Kill a controller in a phase of an update; check that the next one ends it, and that one launch is left.

    `fields` are those of the backend.
    """
    controller.venv("turning", python=python)
    before = controller.backend("turning", kind, name=unique("turning"), update="rolling", drainTimeout=1, **fields)
    path, name = f"/v1/backends/{before['name']}", before["name"]
    key = before["key"]
    controller.venv("turning", python=python, requirements=["six"])

    def find_update() -> str | None:
        operations = controller.api("GET", "/v1/operations")["items"]
        return next((each["id"] for each in operations if each["target"] == name and "update" in each["kind"]), None)

    controller.await_phase(wait_until(find_update, "there is no update"), phase)
    controller.kill()
    controller.start()
    wait_until(lambda: controller.api("GET", path)["key"] != key, lambda: f"it stays old\n{controller.read_log()}")
    wait_until(lambda: not controller.api("GET", path)["updating"], "the update does not end")
    after = controller.await_running(name)
    assert (after["url"], after["token"]) == (before["url"], before["token"])
    wait_until(lambda: count_launches(name) == 1, lambda: f"{count_launches(name)} launches")
    with closing(CALLERS[kind](after["url"], after["token"])) as call:
        assert call("eval", {"expression": "__import__('six') is not None"}) == {"value": True}
    controller.delete_backend(name)
    controller.api("DELETE", "/v1/venvs/turning")
