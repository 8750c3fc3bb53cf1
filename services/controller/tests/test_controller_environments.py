"""Runtimes and venvs: the default runtime, providers, and what else a client may ask of an environment."""

from __future__ import annotations

from typing import Any

from venvd_contract.resources import VenvSpec
from venvd_controller.providers import add_to_venv


def test_the_first_init_chooses_the_default(testbed: Any) -> None:
    """The first runtime that a client makes ready is the default; one that fails, and a later one, are not."""
    runtimes = testbed.controller.runtimes
    assert testbed.wait(runtimes.put("3.9")[1]).state == "failed"
    testbed.wait(runtimes.put("3.11")[1])
    testbed.wait(runtimes.put("3.13")[1])
    assert {item.version: item.default for item in runtimes.list_all()} == {"3.9": False, "3.11": True, "3.13": False}


def test_a_ready_runtime_becomes_the_default_when_it_is_asked_for(testbed: Any) -> None:
    """A build makes a runtime ready without choosing it; a later `init` of it chooses it."""
    testbed.wait(testbed.controller.venvs.put("x", VenvSpec(python="3.11"))[1])
    assert not testbed.controller.runtimes.get("3.11").default
    runtime, operation = testbed.controller.runtimes.put("3.11")
    assert operation is None
    assert runtime.default


def test_a_provider_gets_what_it_asks_for_more(testbed: Any) -> None:
    """Ensuring a provider's venv again adds packages or replaces their versions, and otherwise builds nothing."""
    providers = testbed.controller.providers
    venv, operation = providers.ensure("OpenAI", "gpt", VenvSpec(python="3.11", requirements=["a==1", "b"]))
    testbed.wait(operation)
    assert venv.spec.labels == {"provider": "OpenAI", "model": "gpt"}
    assert providers.ensure("OpenAI", "gpt", VenvSpec()) == (testbed.controller.venvs.get(venv.name), None)
    again, operation = providers.ensure("OpenAI", "gpt", VenvSpec(requirements=["A==2", "c"], env={"X": "1"}))
    testbed.wait(operation)
    assert again.name == venv.name
    assert again.spec.requirements == ["a==2", "b", "c"]
    assert (again.spec.python, again.spec.env) == ("3.11", {"X": "1"})


def test_what_is_added_to_a_venv() -> None:
    """Lists grow without doubles, and a field with its default changes nothing."""
    spec = VenvSpec(python="3.11", aptPackages=["git"], preload=["a"], network=True)
    changed = add_to_venv(spec, VenvSpec(preload=["b", "a"]))
    assert changed == VenvSpec(python="3.11", aptPackages=["git"], preload=["a", "b"], network=True)
