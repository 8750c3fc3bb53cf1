"""The controller put together from its parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from venvd_contract.errors import Unavailable, VenvdError
from venvd_contract.resources import ConfigReport, ControllerStatus
from venvd_controller import __version__, metrics, moving
from venvd_controller.backends import Backends
from venvd_controller.database import Database, open_database
from venvd_controller.home import Home
from venvd_controller.images import Images
from venvd_controller.moving import Choose
from venvd_controller.operations import Operations
from venvd_controller.pruning import Pruner
from venvd_controller.reconcile import Reconciler
from venvd_controller.runtimes import Runtimes
from venvd_controller.settings import Settings, report
from venvd_controller.starting import Starter
from venvd_controller.streams import LogHub
from venvd_controller.upkeep import Upkeep
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
    upkeep: Upkeep
    pruner: Pruner
    logs: LogHub
    registry: CollectorRegistry

    def start(self) -> None:
        """Tidy up after a controller that was killed, then serve what is wanted."""
        try:
            self.engine.sweep()
        except VenvdError as error:
            self.reconciler.engine_error = error.message
        self.runtimes.resume()
        self.venvs.resume()
        self.operations.start()
        self.upkeep.apply()
        self.reconciler.start()

    def let_go(self) -> None:
        """End what follows operations and logs, which would otherwise hold the server up."""
        self.operations.close_followers()
        self.logs.close()

    def stop(self) -> None:
        """Stop serving; backends run on, and no client should look for this controller any more."""
        self.home.withdraw()
        self.let_go()
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
            backends=dict(Counter(row.state for row in self.backends.rows())),
            operations=dict(Counter(state for _, state in self.operations.counts().elements())),
        )

    def config(self) -> ConfigReport:
        wrong = [text for text in (self.reconciler.engine_error, self.upkeep.problem) if text]
        return report(self.settings, self.engine.capabilities().gaps, self.backends.all(), wrong)


def build(settings: Settings, home: Home, choose: Choose) -> Program:
    """A controller that is not started yet.

    Raises:
        VenvdError: what keeps it from serving: its database, its engine, its manifest.
    """
    try:
        settings.sockets.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"the run directory {settings.sockets} cannot be made: {error.strerror}; name another with VENVD_RUN_DIR"
        ) from None
    database = open_database(_database_url(settings, home))
    engine, reason = moving.choose_engine(settings.engine, database, home.id, choose)
    operations = Operations(database, settings.max_operations)
    images = Images(database, engine, operations, settings.image_keep)
    runtimes = Runtimes(database, engine, operations)
    venvs = Venvs(database, engine, operations, runtimes, images, settings.max_builds)
    backends = Backends(database, home, engine.name, operations, venvs, settings.sockets)
    Starter(engine, settings, home, backends, venvs, images, operations)
    reconciler = Reconciler(engine, operations, backends, settings.reconcile_interval, settings.stop_grace)
    upkeep = Upkeep(settings.manifest, database, runtimes, venvs, backends)
    pruner = Pruner(engine, images)
    reconciler.chores += [upkeep.turn, images.sweep, pruner.turn]
    operations.on_done.append(_waking(reconciler))
    registry = metrics.registry(metrics.Sources(engine.name, operations, venvs, backends, reconciler))
    return Program(
        settings, home, engine, reason, database, operations, runtimes, venvs, backends, reconciler, upkeep, pruner,
        LogHub(engine), registry,
    )  # fmt: skip


def _database_url(settings: Settings, home: Home) -> str:
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return f"sqlite:///{home.path / 'controller.sqlite3'}"


def _waking(reconciler: Reconciler) -> Callable[[str, str, float], None]:
    return lambda _kind, _state, _seconds: reconciler.wake()
