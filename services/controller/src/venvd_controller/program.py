"""The controller put together from its parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from venvd_contract.errors import VenvdError
from venvd_contract.resources import ControllerStatus
from venvd_controller import __version__, metrics
from venvd_controller.backends import Backends
from venvd_controller.database import Database, open_database
from venvd_controller.home import Home
from venvd_controller.manifest import Manifest, apply
from venvd_controller.operations import Operations
from venvd_controller.reconcile import Reconciler
from venvd_controller.runtimes import Runtimes
from venvd_controller.settings import Settings
from venvd_controller.starting import Starter
from venvd_controller.venvs import Venvs
from venvd_engines.engine import Engine


@dataclass
class Program:
    """Everything that the routes reach."""

    settings: Settings
    home: Home
    engine: Engine
    engine_reason: str
    database: Database
    operations: Operations
    runtimes: Runtimes
    venvs: Venvs
    backends: Backends
    reconciler: Reconciler
    registry: CollectorRegistry
    manifest: Manifest | None

    def start(self) -> None:
        """Tidy up after a controller that was killed, then serve what is wanted."""
        self.settings.sockets.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            self.engine.sweep()
        except VenvdError as error:
            self.reconciler.engine_error = error.message
        self.operations.start()
        if self.manifest is not None:
            apply(self.manifest, self.database, self.runtimes, self.venvs, self.backends)
        self.reconciler.start()

    def stop(self) -> None:
        """Stop serving; backends run on, and no client should look for this controller any more."""
        self.home.withdraw()
        self.reconciler.stop()
        self.operations.stop()

    def status(self) -> ControllerStatus:
        return ControllerStatus(
            version=__version__,
            engine=self.engine.name,
            engineReason=self.reconciler.engine_error or self.engine_reason,
            home=str(self.home.path),
            runtimes=len(self.runtimes.all()),
            venvs=len(self.venvs.all()),
            backends=dict(Counter(item.state for item in self.backends.all())),
            operations=dict(Counter(item.state for item in self.operations.all())),
        )


def build(settings: Settings, home: Home, engine: Engine, reason: str) -> Program:
    """A controller that is not started yet; raises `InvalidRequest` for a manifest that is wrong."""
    manifest = read_manifest(settings)
    url = settings.database_url or f"sqlite:///{home.path / 'controller.sqlite3'}"
    database = open_database(url)
    operations = Operations(database, settings.max_operations)
    runtimes = Runtimes(database, engine, operations)
    venvs = Venvs(database, engine, operations, runtimes)
    backends = Backends(database, home, engine.name, operations, venvs)
    Starter(engine, settings, backends, venvs, operations)
    reconciler = Reconciler(database, engine, operations, backends, settings.reconcile_interval, settings.stop_grace)
    registry = metrics.registry(metrics.Sources(engine.name, operations, venvs, backends, reconciler))
    return Program(
        settings, home, engine, reason, database, operations, runtimes, venvs, backends, reconciler, registry, manifest
    )


def read_manifest(settings: Settings) -> Manifest | None:
    """The manifest that is named, which must exist, else `venvd.yaml` where there is one."""
    if settings.manifest is not None:
        return Manifest(settings.manifest)
    default = Path("venvd.yaml")
    return Manifest(default) if default.is_file() else None
