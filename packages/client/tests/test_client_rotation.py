"""The rotation of a backend's token, from the command line to a pipe backend that runs on."""

from __future__ import annotations

from typing import Any

import pytest
from harness.cli import Cli
from harness.waiting import wait_until

import venvd

pytestmark = pytest.mark.slow


def test_a_token_is_rotated_while_its_backend_runs(site: Any, cli: Cli) -> None:
    """Both tokens work at first; then the older one and its connections end, with the way to the new one."""
    cli("start", "pipe", "--venv", "plain", "--name", "turned")
    with venvd.Controller(site.url, site.token) as controller:
        before = controller.backends.get("turned")
        with venvd.connect(before.url, before.token) as old:
            old.exec("kept = 1")
            assert cli("backend", "token", "turned").out.strip() == before.token
            second = cli("backend", "token", "turned", "--rotate", "--json").json["token"]
            assert second != before.token
            with venvd.connect(before.url, second) as new:
                assert [each.eval("kept") for each in (old, new)] == [1, 1]
            third = controller.backends.rotate_token("turned", 0)

            def is_refused() -> bool:
                try:
                    old.eval("kept")
                except venvd.Unauthenticated as error:
                    return "`venvd backend token turned`" in str(error)
                return False

            wait_until(is_refused, "the older token is still accepted")
        with venvd.connect(before.url, third.token) as newest:
            assert newest.eval("kept") == 1
        assert controller.backends.get("turned").startedAt == before.startedAt
        assert "--overlap needs --rotate" in cli("backend", "token", "turned", "--overlap", "5", status=2).err
        controller.backends.delete("turned")
