"""What a home keeps and nothing uses, on each engine: in homes of their own, since it is removed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.bench import Bench, evaluate, opened
from harness.stack import Quiet

from venvd_contract.resources import Leftover
from venvd_engines.docker.client import DockerClient

pytestmark = pytest.mark.network


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
def fresh(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with opened(request.param) as made:
        yield made


def _kinds(bench: Bench, *used: str, current: bool) -> set[str]:
    return {one.kind for one in bench.engine.leftovers(set(used)) if one.current is current}


def test_what_is_used_stays(fresh: Bench) -> None:
    """Neither a venv that is to stay nor anything of a backend that runs is left over."""
    image = fresh.engine.build(fresh.wanted(), Quiet())
    assert "venv" not in _kinds(fresh, image.key, current=False)
    with fresh.running(fresh.launch(image)) as record:
        for one in fresh.engine.leftovers(set()):
            fresh.engine.discard(one)
        assert fresh.engine.find_image(image.key) is not None
        assert evaluate(record, "6 * 7") == 42


@pytest.mark.long
def test_everything_can_go_and_comes_again(fresh: Bench) -> None:
    """What is left over is removed whole, and a build and a start make it again."""
    for _ in range(2):
        image = fresh.engine.build(fresh.wanted(), Quiet())
        with fresh.running(fresh.launch(image)) as record:
            assert evaluate(record, "6 * 7") == 42
        leftovers = fresh.engine.leftovers(set())
        assert {one.kind for one in leftovers} >= {"venv", "worker"}
        assert [one.kind for one in leftovers if not one.current] == ["venv"]
        for one in (*leftovers, *leftovers):
            fresh.engine.discard(one)
        assert fresh.engine.leftovers(set()) == []
        assert fresh.engine.find_image(image.key) is None


def test_archives_of_old_versions_are_left_over(fresh: Bench) -> None:
    """The worker archive of an earlier version is out of date, and nothing else of the directory is told."""
    directory = Path(fresh.settings.home) / "worker"
    directory.mkdir()
    (directory / "venvd-worker-000000000000.pyz").write_bytes(b"old")
    (directory / "other").touch()
    (leftover,) = fresh.engine.leftovers(set())
    assert leftover == Leftover("worker", f"{directory}/venvd-worker-000000000000.pyz", current=False, sizeBytes=3)
    fresh.engine.discard(leftover)
    assert [path.name for path in directory.iterdir()] == ["other"]


@pytest.mark.docker
def test_the_last_home_takes_a_servers_image_along() -> None:
    """Homes share the images of servers, and each lets go of its own: what another one holds stays."""
    version = f"old{secrets.token_hex(4)}"
    with opened("docker") as one, opened("docker") as other:
        api = DockerClient(one.settings).api
        one.engine.prepare("http", Quiet())
        (source,) = (left.name for left in one.engine.leftovers(set()) if left.kind == "server")
        made = api.create_container(source, command=["true"])["Id"]
        image = api.commit(made, "venvd/http-backend", version)["Id"]  # as another version would have built it
        api.remove_container(made)
        for bench in (one, other):
            api.tag(image, "venvd/http-backend", f"{bench.settings.home_id}-{version}")
        (mine,) = (left for left in one.engine.leftovers(set()) if left.kind == "server" and not left.current)
        one.engine.discard(mine)
        left = {tag.partition(":")[2] for tag in api.inspect_image(image)["RepoTags"]}
        assert left == {version, f"{other.settings.home_id}-{version}"}
        (theirs,) = (left for left in other.engine.leftovers(set()) if left.kind == "server")
        other.engine.discard(theirs)
        assert not api.images(f"venvd/http-backend:{version}")
