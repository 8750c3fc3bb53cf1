"""The preload list, from the specification to the launch."""

from __future__ import annotations

from typing import Any

import pytest

from venvd_contract.resources import BackendSpec, VenvSpec

pytestmark = pytest.mark.slow


def test_a_new_preload_list_needs_a_start_and_no_build(testbed: Any) -> None:
    """The preload list belongs to the launch, not to the inputs of the image."""
    venvs, backends = testbed.controller.venvs, testbed.controller.backends
    testbed.wait(venvs.put("plain", VenvSpec(python="3.13", preload=["json", "json", "decimal"]))[1])
    testbed.wait(backends.start(BackendSpec("http", "plain", "app"))[1])
    assert list(testbed.engine.find_backend("app").launch.preload) == ["json", "decimal"]
    before = venvs.get("plain")
    venv, operation = venvs.put("plain", VenvSpec(python="3.13", preload=["fractions"]))
    assert operation is None
    assert (venv.state, venv.key) == ("ready", before.key)
    testbed.wait(backends.restart("app")[1])
    launch = testbed.engine.find_backend("app").launch
    assert launch.warden_options() == ["--preload", "fractions", "--preload-timeout", "30", "--spares", "2"]


def test_settings_of_the_fork_pool_reach_the_launch(create_testbed: Any) -> None:
    """The time for imports and the number of spare sessions are settings."""
    with create_testbed(preload_timeout=2.5, spare_sessions=0).started() as testbed:
        testbed.wait(testbed.controller.venvs.put("plain", VenvSpec(python="3.13"))[1])
        testbed.wait(testbed.controller.backends.start(BackendSpec("http", "plain", "app"))[1])
        launch = testbed.engine.find_backend("app").launch
        assert launch.warden_options() == ["--preload-timeout", "2.5", "--spares", "0"]
