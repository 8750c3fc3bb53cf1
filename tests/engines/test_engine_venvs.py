"""What every engine does the same with runtimes, locks and venvs, written once against the interface."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.bench import PYTHON, Bench
from harness.stack import Quiet

from venvd_contract.errors import Cancelled, InvalidRequest, NotFound
from venvd_engines.engine import VenvBuild

pytestmark = pytest.mark.network


class CancelledAt(Quiet):
    """Progress of work that is cancelled once a phase begins."""

    def __init__(self, phase: str) -> None:
        super().__init__()
        self._phase = phase
        self._cancelled = False

    def phase(self, name: str) -> None:
        super().phase(name)
        self._cancelled = self._cancelled or name == self._phase

    def check(self) -> None:
        if self._cancelled:
            raise Cancelled("cancelled by the test")


def test_an_engine_that_was_chosen_answers(bench: Bench) -> None:
    """`check` raises nothing where the engine can be used."""
    bench.engine.check()


def test_gaps_are_told(bench: Bench) -> None:
    """An engine that lacks a guard has a sentence for the operator about it."""
    capabilities = bench.engine.capabilities()
    guards = (capabilities.network_isolation, capabilities.filesystem_isolation, capabilities.memory_wall)
    assert capabilities.gaps or all(guards)


def test_a_minor_version_becomes_an_exact_one(bench: Bench) -> None:
    """A runtime asked for as 3.x is resolved to a patch release of it."""
    runtime = bench.runtime
    assert runtime.version == PYTHON
    assert runtime.resolved.startswith(f"{PYTHON}.")


def test_an_exact_version_is_kept(bench: Bench) -> None:
    """The version that a runtime was resolved to resolves to itself, and to the same base."""
    first = bench.runtime
    again = bench.engine.resolve(first.resolved, Quiet())
    assert (again.resolved, again.base) == (first.resolved, first.base)


def test_an_unknown_version_is_not_found(bench: Bench) -> None:
    """A version that there is not names itself and one that there is."""
    with pytest.raises(NotFound, match=r"3\.98") as caught:
        bench.engine.resolve("3.98", Quiet())
    assert PYTHON in caught.value.message


def test_what_is_no_version_is_refused(bench: Bench) -> None:
    """Words that cannot name a CPython are a wrong request."""
    with pytest.raises(InvalidRequest):
        bench.engine.resolve("python3; rm -rf /", Quiet())


def test_a_lock_pins_by_hash_and_names_no_address(bench: Bench) -> None:
    """Each package of a lock has a version and hashes, and no line says where it comes from."""
    lock = bench.engine.lock(bench.runtime, ["six==1.16.0"], Quiet())
    assert lock.startswith("six==1.16.0 --hash=sha256:")
    assert "://" not in lock


def test_no_requirements_lock_to_nothing(bench: Bench) -> None:
    """A venv without requirements has an empty lock."""
    assert bench.engine.lock(bench.runtime, [], Quiet()) == ""


def test_constraints_and_checks(bench: Bench) -> None:
    """A lock keeps to the constraints. A venv that cannot import what it must is refused, also if it exists already."""
    runtime = bench.runtime
    lock = bench.engine.lock(runtime, ["six"], Quiet(), ["six==1.16.0", "numpy<2"])
    assert [line.split(" ")[0] for line in lock.splitlines()] == ["six==1.16.0"]
    broken = VenvBuild(runtime, lock, checks=("six", "no_such_module"))
    with pytest.raises(InvalidRequest, match="import no_such_module raises ModuleNotFoundError"):
        bench.engine.build(broken, Quiet())
    assert bench.engine.find_image(broken.key()) is None
    built = bench.engine.build(VenvBuild(runtime, lock, checks=("six",)), Quiet())
    assert built.key == broken.key()
    with pytest.raises(InvalidRequest, match="no_such_module"):
        bench.engine.build(broken, Quiet())
    assert bench.engine.find_image(broken.key()) == built


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("no-such-package-of-venvd==1", "no-such-package-of-venvd"),
        ("six==99999", "six"),
        ("--index-url http://127.0.0.1:1/", "option"),
        ("./somewhere", "path"),
    ],
)
def test_what_cannot_be_locked_is_named(bench: Bench, line: str, named: str) -> None:
    """A requirement that does not exist, or that may not be asked for, is a wrong request that says which."""
    with pytest.raises(InvalidRequest, match=named):
        bench.engine.lock(bench.runtime, [line], Quiet())


def test_a_venv_holds_what_was_locked(bench: Bench) -> None:
    """The image of a venv lists exactly the packages of its lock."""
    image = bench.engine.build(bench.wanted("six==1.16.0"), Quiet())
    assert [(package.name, package.version) for package in image.packages] == [("six", "1.16.0")]


def test_an_equal_venv_is_found_and_not_built(bench: Bench) -> None:
    """A second build of the same content answers with the first one's image, by another engine object too."""
    wanted = bench.wanted("six==1.16.0")
    first = bench.engine.build(wanted, Quiet())
    progress = Quiet()
    assert bench.another().build(wanted, progress) == first
    assert "== install" not in progress.lines
    assert bench.engine.find_image(wanted.key()) == first


def test_builds_of_one_key_at_a_time(bench: Bench) -> None:
    """Two builds of the same content at once give one image, built once."""
    wanted = bench.wanted("six==1.15.0")
    logs = [Quiet(), Quiet()]
    with ThreadPoolExecutor(2) as pool:
        images = list(pool.map(lambda progress: bench.engine.build(wanted, progress), logs))
    assert images[0] == images[1]
    assert sum(line == "== install" for progress in logs for line in progress.lines) == 1


def test_a_removed_image_is_gone(bench: Bench) -> None:
    """An image that was removed is not found, removing it again is no error, and it can be built again."""
    wanted = bench.wanted("six==1.14.0")
    bench.engine.build(wanted, Quiet())
    bench.engine.remove_image(wanted.key())
    bench.engine.remove_image(wanted.key())
    assert bench.engine.find_image(wanted.key()) is None
    assert bench.engine.build(wanted, Quiet()).packages


def test_a_cancelled_build_leaves_nothing(bench: Bench) -> None:
    """A build that is cancelled raises Cancelled, leaves no image, and does not stand in the way of the next one."""
    wanted = bench.wanted("six==1.13.0")
    with pytest.raises(Cancelled):
        bench.engine.build(wanted, CancelledAt("install"))
    assert bench.engine.find_image(wanted.key()) is None
    assert bench.engine.build(wanted, Quiet()).packages
