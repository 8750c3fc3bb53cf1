"""An engine as a controller uses it, for the suite that every engine passes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.callers import HttpCaller
from harness.engines import open_settings
from harness.stack import PORTS, ROOT, Quiet, make_home_id, remove_images, wait_ready
from venvd_engines.engine import Engine, EngineSettings, Image, Launch, LaunchRecord, RuntimeRef, VenvBuild
from venvd_engines.select import choose

PYTHON = f"3.{sys.version_info.minor}"
TOKEN = "the token of these tests"


@dataclass
class Bench:
    """An engine, and what a test needs to use it as a controller would."""

    name: str
    settings: EngineSettings
    engine: Engine = field(init=False)
    _closing: contextlib.ExitStack = field(init=False, default_factory=contextlib.ExitStack)
    _locks: dict[tuple[str, ...], str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.engine = self.another()

    def another(self) -> Engine:
        """A second engine object of the same home: a controller that was started again."""
        engine = choose(self.name, self.settings)[0]
        self._closing.callback(getattr(engine, "close", lambda: None))
        return engine

    def close(self) -> None:
        """Close the engine objects."""
        self._closing.close()

    @functools.cached_property
    def runtime(self) -> RuntimeRef:
        """CPython of the version that runs the tests."""
        return self.engine.resolve(PYTHON, Quiet())

    def wanted(self, *requirements: str) -> VenvBuild:
        """A venv of these requirements, locked once."""
        if requirements not in self._locks:
            self._locks[requirements] = self.engine.lock(self.runtime, requirements, Quiet())
        return VenvBuild(self.runtime, self._locks[requirements])

    def launch(self, image: Image, kind: str = "http", **changes: Any) -> Launch:
        launch_id = secrets.token_hex(6)
        made = Launch(
            id=launch_id,
            name=f"conformance-{launch_id}",
            type=kind,
            image=image,
            server_env={
                "VENVD_NAME": f"conformance-{kind}",
                "VENVD_TOKEN_SHA256": hashlib.sha256(TOKEN.encode()).hexdigest(),
            },
            ports=PORTS[kind],
            socket_name=f"e-{secrets.token_hex(3)}" if kind == "pipe" else None,
        )
        return replace(made, **changes)

    @contextlib.contextmanager
    def running(self, launch: Launch) -> Iterator[LaunchRecord]:
        """A backend that is ready, destroyed at the end."""
        self.engine.prepare(launch.type, Quiet())
        record = self.engine.start(launch, Quiet())
        try:
            wait_ready(record.probe_url)
            yield record
        finally:
            self.engine.destroy(record)

    def owned(self, launch_id: str) -> bool:
        return launch_id in {owned.launch_id for owned in self.engine.list_owned()}


def evaluate(record: LaunchRecord, code: str, token: str = TOKEN) -> Any:
    """What an HTTP backend answers to `eval`."""
    call = HttpCaller(record.url, token)
    try:
        return call("eval", {"expression": code})["value"]
    finally:
        call.close()


@contextlib.contextmanager
def opened(name: str, **changes: Any) -> Iterator[Bench]:
    """An engine of a home of its own; `changes` are fields of its settings. What it made is removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="venvd-engine-"))
    bundle = os.environ.get("VENVD_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    with open_settings(name) as fields:
        settings = EngineSettings(
            home=home,
            home_id=make_home_id(),
            run_dir=home / "run",
            pipe_name_dir=home,
            source_dir=ROOT,
            ca_bundle=Path(bundle) if bundle else None,
            **fields,
        )
        settings.run_dir.mkdir()
        made = Bench(name, replace(settings, **changes))
        try:
            yield made
        finally:
            fresh = choose(name, settings)[0]
            for owned in fresh.list_owned():
                fresh.destroy_owned(owned)
            fresh.sweep()
            getattr(fresh, "close", lambda: None)()
            made.close()
            if name == "docker":
                remove_images(settings.home_id)
            shutil.rmtree(home, ignore_errors=True)
