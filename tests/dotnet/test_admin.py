"""`venvd venv admin`: the administrative venv, and a backend of it that manages all venvs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import cli
from harness.controller import Controller, running_controller

import venvd

pytestmark = [pytest.mark.long, pytest.mark.network, pytest.mark.docker, pytest.mark.needs("mcs")]


@pytest.fixture(scope="module")
def site(assemblies: Path) -> Iterator[Controller]:
    with running_controller("docker", VENVD_HOST_DIRS=str(assemblies.parent)) as controller:
        yield controller


def test_the_administrative_venv(site: Controller, assemblies: Path) -> None:
    """One command builds it with Python.NET, numpy and the operator's assemblies, and starts a backend that manages."""
    environment = {**os.environ, "VENVD_URL": site.url, "VENVD_TOKEN": site.token, "VENVD_HOME": str(site.home)}
    started = cli.run(
        environment, "venv", "admin", "--assemblies", str(assemblies), "--start", "Http", "--json", seconds=540
    ).json
    assert (started["venv"], started["state"], started["type"]) == ("admin", "running", "http")
    with venvd.connect(started["url"], started["token"], timeout=120) as backend, backend.sessions.create() as session:
        made = session.eval(
            "import clr, numpy\nfrom Example.Environments import VenvManager\n"
            "manager = VenvManager('/srv')\n(manager.Create('science'), int(numpy.arange(4).sum()))"
        )
        assert made == ("/srv/science", 6)
        managed = "from venvd_host import VenvManager as Environments\nenvironments = Environments()\n"
        listed = session.eval(f"{managed}[each['name'] for each in environments.list_environments()]")
        assert listed == ["admin"]
        created = session.eval(f"{managed}environments.create_environment('anything', requirements=['six'])['state']")
        assert created == "ready"
        session.eval(f"{managed}environments.delete_environment('anything')")
    assert [item["name"] for item in site.api("GET", "/v1/venvs")["items"]] == ["admin"]
