"""Both engines, each with a home of its own; whatever a test leaves is removed by the home's identity."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.bench import Bench
from harness.stack import ROOT, Quiet, remove_images

from venvd_engines.engine import EngineSettings, Image

ENGINES = [
    pytest.param("local", id="local"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]


@pytest.fixture(scope="package", params=ENGINES)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    home = Path(tempfile.mkdtemp(prefix="venvd-engine-"))
    bundle = os.environ.get("VENVD_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    settings = EngineSettings(
        home=home,
        home_id=f"test-{secrets.token_hex(6)}",
        run_dir=home / "run",
        source_dir=ROOT,
        ca_bundle=Path(bundle) if bundle else None,
    )
    settings.run_dir.mkdir()
    made = Bench(request.param, settings)
    try:
        yield made
    finally:
        fresh = made.another()
        for owned in fresh.list_owned():
            fresh.destroy_owned(owned)
        fresh.sweep()
        if request.param == "docker":
            remove_images(settings.home_id)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="package")
def image(bench: Bench) -> Image:
    """A venv with nothing in it."""
    return bench.engine.build(bench.wanted(), Quiet())
