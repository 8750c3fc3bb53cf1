from __future__ import annotations

import secrets
import sys
from pathlib import Path

import pytest
from harness.stack import Quiet

from venvd_contract.errors import Unimplemented
from venvd_contract.resources import BACKEND_TYPES
from venvd_engines.engine import EngineSettings, Image, Launch, RuntimeRef, VenvBuild
from venvd_engines.local import server_version
from venvd_engines.local.engine import LocalEngine


@pytest.fixture
def engine(tmp_path: Path) -> LocalEngine:
    return LocalEngine(EngineSettings(home=tmp_path, home_id=f"test-{secrets.token_hex(4)}", run_dir=tmp_path / "run"))


def test_what_is_not_isolated_is_said(engine: LocalEngine) -> None:
    """Each guard that processes lack is a sentence for the operator."""
    capabilities = engine.capabilities()
    assert not any(
        (
            capabilities.apt_packages,
            capabilities.network_isolation,
            capabilities.filesystem_isolation,
            capabilities.memory_wall,
        )
    )
    whole = " ".join(capabilities.gaps)
    for subject in ("files", "processes", "network", "Memory", "CPU", "disk", "Debian packages"):
        assert subject in whole
    assert all(gap.endswith(".") for gap in capabilities.gaps)


def test_debian_packages_cannot_be_had(engine: LocalEngine) -> None:
    """A venv with Debian packages is refused, with the reason and what would do, before anything is made."""
    build = VenvBuild(RuntimeRef("3.11", "3.11.7", sys.executable), "", apt_packages=("libgomp1",))
    with pytest.raises(Unimplemented, match=r"no Debian packages.*libgomp1.*engine docker"):
        engine.build(build, Quiet())
    assert engine.find_image(build.key()) is None


def test_a_loopback_of_its_own_cannot_be_had(engine: LocalEngine) -> None:
    """A launch with `loopback` is refused: there user code would reach the services of this machine."""
    launch = Launch("0" * 12, "app", "http", Image("key", "/venv", "3.11.9"), {}, network="loopback")
    with pytest.raises(Unimplemented, match=r"loopback of its own: use the engine docker"):
        engine.start(launch, Quiet())
    assert engine.list_owned() == []


@pytest.mark.parametrize("kind", ["http", "pipe", "rpc"])
def test_every_server_is_there(engine: LocalEngine, kind: str, tmp_path: Path) -> None:
    """Preparing makes the worker archive and finds the server; again it is a matter of nothing."""
    for _ in range(2):
        engine.prepare(kind, Quiet())
    assert len(list((tmp_path / "worker").glob("venvd-worker-*.pyz"))) == 1


def test_servers_are_identified(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each type has an identity that changes with the sources below it; a type without a server has none."""
    identities = {kind: engine.identify_server(kind) for kind in BACKEND_TYPES}
    assert len(set(identities.values())) == len(BACKEND_TYPES)
    assert all(identity and len(identity) <= 32 for identity in identities.values())
    assert engine.identify_server("ftp") is None
    list_sources = server_version._list_sources
    monkeypatch.setattr(
        server_version, "_list_sources", lambda module: list_sources(module)[: 1 if module == "venvd_http" else None]
    )
    server_version.identify_server.cache_clear()
    assert not set(identities.values()) & {engine.identify_server(kind) for kind in BACKEND_TYPES}
    server_version.identify_server.cache_clear()


@pytest.mark.parametrize("kind", ["ftp", "", "http.evil", "../http"])
def test_a_server_that_is_not_there_is_said(engine: LocalEngine, kind: str) -> None:
    """A type without a server is refused by its name."""
    with pytest.raises(Unimplemented, match="no server of the type"):
        engine.prepare(kind, Quiet())


def test_a_fresh_home_has_nothing(engine: LocalEngine, tmp_path: Path) -> None:
    """Looking, sweeping and removing in a home where nothing was made change nothing and fail at nothing."""
    assert engine.list_owned() == []
    assert engine.find_image("0" * 32) is None
    engine.sweep()
    engine.check()
    assert list(tmp_path.iterdir()) == []
