from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from venvd_engines.engine import Launch
from venvd_engines.local.processes import wait_until

pytestmark = pytest.mark.slow

Site = Any
"""The fixture's class, in conftest.py."""


def test_logs_hold_the_output_of_both_parts(site: Site, launch: Launch) -> None:
    """Each line comes with its time, its part and its stream, and stays after the end."""
    site.start(launch)
    site.wait_worker(launch)
    site.launches.stop(launch.id, 5)
    lines = list(site.launches.logs(launch.id, None, follow=False))
    logged = {(line.source, line.stream, line.text) for line in lines}
    assert {
        ("server", "stdout", "server says"),
        ("server", "stderr", "server complains"),
        ("worker", "stdout", "worker says"),
    } <= logged
    assert [line.time for line in lines] == sorted(line.time for line in lines)
    assert len(list(site.launches.logs(launch.id, 1, follow=False))) == 1
    assert list(site.launches.logs(launch.id, 0, follow=False)) == []
    assert list(site.launches.logs("absent", None, follow=False)) == []


def test_logs_are_followed_to_the_end(site: Site, launch: Launch, tmp_path: Path) -> None:
    """Following shows lines as they come and ends with the backend."""
    go = tmp_path / "go"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)\nprint('later', flush=True)\n"
    site.worker = "print('early', flush=True)\n" + wait + "time.sleep(300)\n"
    site.start(launch)
    seen: list[str] = []
    arrived = threading.Event()

    def follow(until: Callable[[str], bool]) -> None:
        for line in site.launches.logs(launch.id, None, follow=True):
            seen.append(line.text)
            if until(line.text):
                arrived.set()

    thread = threading.Thread(target=follow, args=(lambda text: text == "later",))
    thread.start()
    assert wait_until(lambda: "early" in seen, 20)
    go.touch()
    assert arrived.wait(20)
    site.launches.stop(launch.id, 1)
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.long
def test_a_flood_of_output_is_bounded(site: Site, launch: Launch) -> None:
    """A worker host that writes without end neither stops nor fills the disk, and the newest lines are kept."""
    from venvd_engines.local import journal

    site.worker = "for number in range(200_000): print(number, 'x' * 80)\nprint('done', flush=True)\n" + site.worker
    site.start(launch)
    site.wait_worker(launch)
    assert wait_until(lambda: any(line.text == "done" for line in site.launches.logs(launch.id, 2, follow=False)), 60)
    files = list(site.directory(launch).glob("worker.log*"))
    assert len(files) == 2
    assert all(file.stat().st_size <= journal.FILE_BYTES for file in files)


def test_the_last_output_of_a_crash_is_kept(site: Site, launch: Launch, tmp_path: Path) -> None:
    """What a part wrote right before it was killed is in the log."""
    started = tmp_path / "started"
    site.worker = f"""import os, time
while not os.path.exists({str(started)!r}): time.sleep(0.01)
print('last words', end='', flush=True)
os.kill(os.getpid(), 9)
"""
    site.start(launch)
    started.touch()
    site.wait_ended(launch, "worker")
    site.launches.stop(launch.id, 0)
    texts = [line.text for line in site.launches.logs(launch.id, None, follow=False)]
    assert "last words" in texts
