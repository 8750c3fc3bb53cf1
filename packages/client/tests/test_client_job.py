"""`venvd.backend`: the whole job in one call, with a controller of its own or one that is there."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import venvd
from venvd import _controller_process

pytestmark = pytest.mark.slow

MINOR = f"3.{sys.version_info.minor}"


@pytest.fixture
def empty_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that does not exist yet; its path is short, as those of sockets must be."""
    for name in ("VENVD_URL", "VENVD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(prefix="venvd-", ignore_cleanup_errors=True) as directory:
        monkeypatch.setenv("VENVD_HOME", f"{directory}/home")
        monkeypatch.setenv("VENVD_ENGINE", "local")
        yield Path(directory) / "home"


def test_options_that_are_none_are_refused() -> None:
    """A word that is no option is an error, not a backend without what it asks for."""
    with pytest.raises(TypeError, match=r"no such option: version; there are python, venv, .*"):
        venvd.backend(version="3.8").__enter__()  # type: ignore[call-arg]


def test_a_version_that_is_a_number_is_refused(empty_home: Path) -> None:
    """3.10 would be 3.1."""
    with pytest.raises(venvd.InvalidRequest, match=r'is text in quotes, such as "3.13", not 3.13'):
        venvd.backend(python=3.13).__enter__()  # type: ignore[arg-type]
    assert not empty_home.exists()


def test_a_program_of_its_own(empty_home: Path) -> None:
    """Without a controller one is started for the block; the backend runs what was asked for."""
    seen: list[str] = []
    with venvd.backend(python=MINOR, env={"COLOUR": "red"}, on_event=lambda event: seen.append(event.kind)) as b:
        assert b.eval("__import__('sys').version_info[:2]") == sys.version_info[:2]
        assert b.eval("__import__('os').environ['COLOUR']") == "red"
        url = (empty_home / "url").read_text().strip()
        with venvd.Controller() as controller:
            assert [backend.url for backend in controller.backends.list()] == [b.url]
            assert controller.url == url
            token = controller.backends.list()[0].token
    assert {"phase", "done"} <= set(seen)
    assert not venvd.Controller(url).alive()
    # somebody else's backend may have the port by now, but not the token
    with pytest.raises((venvd.Unreachable, venvd.Unauthenticated)):
        venvd.connect(b.url, token).eval("1")


def _program(preload: str) -> subprocess.Popen[str]:
    """Another program in a block of its own; it leaves the block when its stdin ends."""
    code = (
        "import sys, venvd\n"
        f"with venvd.backend(python={MINOR!r}, preload=[{preload!r}]) as b:\n"
        "    print(b.url, flush=True)\n"
        "    sys.stdin.read()\n"
        "    print(b.eval('6 * 7'), flush=True)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_the_last_program_ends_the_private_controller(empty_home: Path) -> None:
    """A second program uses the first one's controller, which outlives the first and ends with the second."""
    with _program("json") as first, _program("math") as second:
        assert first.stdout is not None
        assert second.stdout is not None
        assert first.stdout.readline().startswith("http://")
        assert second.stdout.readline().startswith("http://")
        url = (empty_home / "url").read_text().strip()
        assert first.communicate(timeout=60)[0] == "42\n"
        with venvd.Controller() as controller:
            assert [backend.state for backend in controller.backends.list()] == ["running"]
        assert second.communicate(timeout=60)[0] == "42\n"
    assert not venvd.Controller(url).alive()


def test_up_keeps_a_private_controller(empty_home: Path) -> None:
    """`venvd up` beside a program that started one takes it over: it runs on, and `down` ends it."""
    command = [sys.executable, "-m", "venvd"]
    with venvd.backend(python=MINOR):
        up = subprocess.run([*command, "up", "--detach", "--json"], check=True, capture_output=True)
    assert venvd.Controller(json.loads(up.stdout)["url"]).alive()
    down = subprocess.run([*command, "down", "--json"], check=True, capture_output=True)
    assert json.loads(down.stdout)["stopped"] is True


def test_a_controller_that_is_there_is_used(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by its home, keeps running, and nothing of the block is left; twice the same venv is one."""
    monkeypatch.setenv("VENVD_HOME", str(site.home))
    for name in ("VENVD_URL", "VENVD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with venvd.Controller() as controller:
        before = {backend.name for backend in controller.backends.list()}
        with venvd.backend(python=MINOR) as one, venvd.backend(python=MINOR) as two:
            one.exec("here = 1")
            assert two.eval("'here' in globals()") is False
        assert {backend.name for backend in controller.backends.list()} == before
        assert len([venv for venv in controller.venvs.list() if venv.name.startswith("auto-")]) == 1


def test_a_venv_by_name(site: Any) -> None:
    """With `venv` alone nothing is built; an unknown one is not found."""
    options: Any = {"controller": site.url, "token": site.token}
    with venvd.backend(venv="plain", **options) as b:
        assert b.eval("1") == 1
    with pytest.raises(venvd.NotFound, match="nobody"), venvd.backend(venv="nobody", **options):
        pass


def test_an_error_in_the_block_stops_the_backend(site: Any) -> None:
    """The error comes out, and the backend is gone."""

    def work() -> None:
        with venvd.backend(venv="plain", name="unlucky", controller=site.url, token=site.token) as b:
            raise LookupError(f"mine: {b.eval('1 + 1')}")

    with pytest.raises(LookupError, match="mine: 2"):
        work()
    with venvd.Controller(site.url, site.token) as controller, pytest.raises(venvd.NotFound):
        controller.backends.get("unlucky")


def test_a_start_that_fails_leaves_nothing(site: Any) -> None:
    """A port in use is told, and the failed backend is removed."""
    port = int(site.backend.url.rpartition(":")[2])
    with (
        pytest.raises(venvd.Conflict, match=str(port)),
        venvd.backend(venv="plain", name="taken", port=port, controller=site.url, token=site.token),
    ):
        pass
    with venvd.Controller(site.url, site.token) as controller, pytest.raises(venvd.NotFound):
        controller.backends.get("taken")


def test_asyncio(site: Any) -> None:
    """The same to be awaited; the controller's client too."""

    async def job() -> None:
        async with venvd.AsyncController(site.url, site.token) as controller:
            assert await controller.alive()
            assert (await controller.status()).engine == "local"
            async with venvd.backend_async(venv="plain", name="awaited", controller=site.url, token=site.token) as b:
                assert await b.eval("6 * 7") == 42
                assert "awaited" in {backend.name for backend in await controller.backends.list()}
                lines = [line.text async for line in _first(controller.backends.follow_logs("awaited"), 2)]
                assert len(lines) == 2
            with pytest.raises(venvd.NotFound):
                await controller.backends.get("awaited")

    asyncio.run(job())


async def _first(source: Any, count: int) -> Any:
    async for item in source:
        yield item
        count -= 1
        if not count:
            break
    await source.aclose()


def test_a_named_controller_that_is_away(empty_home: Path) -> None:
    """A controller that was named is not replaced by one of our own."""
    with pytest.raises(venvd.NoController, match=r"127\.0\.0\.1:1"), venvd.backend(controller="http://127.0.0.1:1"):
        pass
    assert not empty_home.exists()


def test_without_the_controllers_program(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to start one."""
    monkeypatch.setattr(_controller_process, "PROGRAM", "venvd_no_such_program")
    with pytest.raises(venvd.NoController, match="venvd up --detach"), venvd.backend():
        pass


def test_a_controller_that_cannot_start_says_why(empty_home: Path) -> None:
    """What its log says is in the error."""
    with pytest.raises(venvd.Unavailable, match='VENVD_ENGINE is "abacus": it takes auto, docker, local or kubernetes'):
        _controller_process.start(empty_home, settings={"VENVD_ENGINE": "abacus"})


def test_a_type_that_does_not_exist() -> None:
    """It is refused before anything is started."""
    with pytest.raises(venvd.InvalidRequest, match="soap"), venvd.backend(type="soap"):
        pass


def test_an_operation_is_followed_to_its_end(site: Any) -> None:
    """Its events come in order, `done` last and once."""
    with venvd.Controller(site.url, site.token) as controller:
        change = controller.venvs.put("followed", venvd.VenvSpec(python=MINOR, labels={"a": "b"}))
        kinds: list[str] = []
        controller.operations.wait(change.operation, lambda event: kinds.append(event.kind))
        if change.operation is not None:
            assert kinds.index("done") == len(kinds) - 1
        assert controller.venvs.get("followed").state == "ready"
        controller.venvs.delete("followed")
