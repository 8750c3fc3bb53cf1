"""The secrets of a backend: a file that changes, and what is wrong with it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from venvd_contract.errors import Unavailable
from venvd_contract.watched_file import WatchedFile
from venvd_core import secrets
from venvd_core.secrets import Secrets

Work = Callable[[Secrets], Coroutine[Any, Any, None]]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of secrets that the server checks often."""
    monkeypatch.setattr(secrets, "_POLL_SECONDS", 0.01)
    file = tmp_path / "secrets.json"
    write(file, A="1")
    return file


def write(path: Path, **variables: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"variables": variables}))
    beside.rename(path)


def spoil(path: Path) -> None:
    path.write_text("{")


def remove(path: Path) -> None:
    path.unlink()


async def wait_until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - the watched task has no event
            await asyncio.sleep(0.01)


def run_with(path: Path, work: Work) -> None:
    async def run() -> None:
        read = Secrets(path)
        await read.start()
        try:
            await work(read)
        finally:
            read.close()

    asyncio.run(run())


def test_a_bad_file_is_told_once_and_the_secrets_stay(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the file is bad, the server says so in one line. A good file is read, and the next bad one told again."""
    reads = []

    async def work(read: Secrets) -> None:
        read_good = WatchedFile._read

        def read_bad(file: WatchedFile[object]) -> bytes:
            reads.append(file.path)
            return b"{"

        monkeypatch.setattr(WatchedFile, "_read", read_bad)
        write(path, A="2")
        await wait_until(lambda: len(reads) > 20)
        assert read.variables == {"A": "1"}
        assert len(caplog.records) == 1
        monkeypatch.setattr(WatchedFile, "_read", read_good)
        await wait_until(lambda: read.variables == {"A": "2"})
        spoil(path)
        await wait_until(lambda: len(caplog.records) == 2)
        remove(path)
        await wait_until(lambda: len(caplog.records) == 3)
        assert read.variables == {"A": "2"}

    with caplog.at_level(logging.ERROR, "venvd.secrets"):
        run_with(path, work)
    assert all(str(path) in record.getMessage() for record in caplog.records)
    assert "No such file" in caplog.records[2].getMessage()


def test_a_change_that_cannot_be_passed_on_is_passed_on_later(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The broker's rules may be unreadable for a moment: the server tries again until it has passed the change on."""
    calls: list[str] = []

    async def work(read: Secrets) -> None:
        def pass_on() -> None:
            calls.append(read.variables["A"])
            if len(calls) < 5:
                raise FileNotFoundError("no rules")

        read.on_change = pass_on
        write(path, A="2")
        await wait_until(lambda: len(calls) == 5)
        assert calls == ["2"] * 5
        write(path, A="3")
        await wait_until(lambda: calls[-1] == "3")

    run_with(path, work)
    [told] = [record.getMessage() for record in caplog.records]
    assert "does not have the changed secrets yet: no rules" in told


def test_a_server_says_why_it_has_no_secrets(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that starts with a bad file says what is wrong with it."""
    monkeypatch.setattr(secrets, "_START_TIMEOUT", -1.0)
    path.write_text('{"variables": 7}')
    with pytest.raises(Unavailable, match=r"secrets\.json is not usable after .* s: Expected `object`, got `int`"):
        asyncio.run(Secrets(path).start())
