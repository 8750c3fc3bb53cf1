"""When a wait spins."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from venvd_contract import spinning
from venvd_contract.spinning import Spinner, count_cores

LONG = 30_000_000
"""Microseconds; a busy machine takes many of them."""


@pytest.fixture(autouse=True)
def _own_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work of the machine does not end the spins of these tests."""
    monkeypatch.setattr(spinning, "_SHARED", 30.0)


def skip_all(spinner: Spinner[object]) -> int:
    """Let the waits without a spin go by, and return how many there were."""
    skips, spinner.skips = spinner.skips, 0
    return skips


def counts_to(number: int) -> Callable[[], bool]:
    looks: list[bool] = []

    def look() -> bool:
        looks.append(True)
        return len(looks) >= number

    return look


def test_the_first_waits_do_not_spin() -> None:
    """A client that makes few calls never spins."""
    assert Spinner(lambda: True, LONG).skips > 10


def test_without_microseconds_nothing_spins() -> None:
    """The number of waits to skip never comes to zero where the setting is 0."""
    assert Spinner(lambda: True, 0).skips < 0


def test_what_comes_in_time_is_seen() -> None:
    """A spin looks until something is there, and the next wait spins too."""
    spinner = Spinner(counts_to(20), LONG)
    skip_all(spinner)
    assert spinner.spin()
    assert spinner.skips == 0


def test_a_spin_in_vain_ends() -> None:
    """After a spin in vain some waits do not spin, after the next one twice as many, and there is a bound."""
    spinner = Spinner(lambda: False, 1)
    pauses = []
    for _ in range(20):
        skip_all(spinner)
        assert not spinner.spin()
        pauses.append(spinner.skips)
    assert pauses[1] == 2 * pauses[0] > 0
    assert pauses[-1] == pauses[-2] <= 10_000


def test_good_spins_shorten_the_pauses() -> None:
    """Many good spins in a row make the pauses short again; a single one between spins in vain does not."""
    here: list[bool] = []
    spinner = Spinner(lambda: bool(here), 1)
    for _ in range(9):
        skip_all(spinner)
        spinner.spin()
    longest = skip_all(spinner)
    here.append(True)
    assert spinner.spin()
    here.clear()
    spinner.spin()
    assert skip_all(spinner) > longest
    here.append(True)
    for _ in range(400):
        assert spinner.spin()
    here.clear()
    spinner.spin()
    assert spinner.skips < longest / 10


def test_a_core_that_others_use_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process ran between two looks, the waits sleep again, also if something was seen."""
    monkeypatch.setattr(spinning, "_SHARED", 0.001)
    spinner = Spinner(lambda: not time.sleep(0.01), LONG)
    skip_all(spinner)
    assert spinner.spin()
    assert spinner.skips > 0


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, 8),
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"/sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (
            {
                "/proc/self/cgroup": "1:cpu:/\n0::/user/one\n",
                "/sys/fs/cgroup/user/cpu.max": "300000 100000",
                "/sys/fs/cgroup/user/one/cpu.max": "max 100000",
            },
            3,
        ),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_cores_of_a_control_group(monkeypatch: pytest.MonkeyPatch, limits: dict[str, str], cores: int) -> None:
    """The limit of a container, or of a group above its own, counts as so many whole cores, at least one."""
    monkeypatch.setattr(spinning.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(spinning, "_read", lambda path: limits.get(path, ""))
    assert count_cores() == cores
