"""The controller, built from its parts."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from venvd_contract.errors import Unavailable, VenvdError
from venvd_contract.resources import ConfigReport, ControllerStatus
from venvd_controller import __version__, metrics
from venvd_controller.audit import AuditLog
from venvd_controller.auto_venvs import AutoVenvs
from venvd_controller.backend_events import BackendEvents
from venvd_controller.backend_start import BackendStarter
from venvd_controller.backends import Backends
from venvd_controller.database import Database, open_database
from venvd_controller.engine_migration import CreateEngine, choose_engine
from venvd_controller.forwarding import Forwarder
from venvd_controller.home import Home
from venvd_controller.host_paths import HostPaths
from venvd_controller.images import Images
from venvd_controller.key_files import KeyFiles
from venvd_controller.keys import Keys
from venvd_controller.manifest_sync import ManifestSync
from venvd_controller.operations import Operations
from venvd_controller.pod_manifests import PodManifests
from venvd_controller.providers import Providers
from venvd_controller.pruner import Pruner
from venvd_controller.reconciler import Reconciler
from venvd_controller.runtimes import Runtimes
from venvd_controller.scaling import Scaler
from venvd_controller.secret_store import SecretStore
from venvd_controller.settings import Settings, create_report
from venvd_controller.site_authorities import SiteAuthorities
from venvd_controller.sleep import Sleep
from venvd_controller.streams import LogHub
from venvd_controller.updates import Updates
from venvd_controller.venv_runs import VenvRuns
from venvd_controller.venvs import Venvs
from venvd_engines.engine import Engine


@dataclass
class Controller:
    """All parts of a controller, for the routes."""

    settings: Settings
    home: Home
    engine: Engine
    engine_reason: str
    database: Database
    operations: Operations
    runtimes: Runtimes
    venvs: Venvs
    providers: Providers
    backends: Backends
    scaler: Scaler
    updates: Updates
    pod_manifests: PodManifests
    keys: Keys
    audit: AuditLog
    secrets: SecretStore
    key_files: KeyFiles
    reconciler: Reconciler
    manifest_sync: ManifestSync
    pruner: Pruner
    logs: LogHub
    runs: VenvRuns
    forwarder: Forwarder
    registry: CollectorRegistry

    def start(self) -> None:
        """Clean up after a killed controller, then resume its work."""
        try:
            self.engine.sweep()
        except VenvdError as error:
            self.reconciler.engine_error = error.message
        self.runtimes.resume()
        self.venvs.resume()
        self.operations.start()
        self.manifest_sync.apply()
        self.reconciler.start()
        self.key_files.start()

    def close_followers(self) -> None:
        """End the streams of operations and logs: they would delay the end of the server."""
        self.operations.close_followers()
        self.logs.close()

    def stop(self) -> None:
        """Stop the controller; the backends keep running."""
        self.home.withdraw()
        self.close_followers()
        self.reconciler.stop()
        self.key_files.stop()
        self.operations.stop()
        with suppress(VenvdError):
            self.keys.flush()
            self.audit.write_merged(everything=True)

    def get_status(self) -> ControllerStatus:
        return ControllerStatus(
            version=__version__,
            engine=self.engine.name,
            engineReason=self.reconciler.engine_error or self.engine_reason,
            home=str(self.home.path),
            manifest=str(self.manifest_sync.path) if self.manifest_sync.path else None,
            gaps=list(self.engine.capabilities().gaps),
            runtimes=len(self.runtimes.list_all()),
            venvs=len(self.venvs.list_all()),
            backends=dict(Counter(state for _, state in self.backends.list_states())),
            operations=dict(Counter(state for _, state in self.operations.count().elements())),
        )

    def get_config(self) -> ConfigReport:
        problems = [text for text in (self.reconciler.engine_error, self.manifest_sync.problem) if text]
        return create_report(self.settings, self.engine.capabilities().gaps, self.backends.list_all(), problems)


def create_controller(settings: Settings, home: Home, create_engine: CreateEngine) -> Controller:
    """Create a controller, but do not start it.

    Raises:
        VenvdError: the run directory, the database, the engine or the manifest cannot be used.
    """
    try:
        settings.sockets.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"the run directory {settings.sockets} cannot be made: {error.strerror}; name another with VENVD_RUN_DIR"
        ) from None
    database = open_database(settings.get_database_url())
    engine, reason = choose_engine(settings.engine, database, home.id, create_engine)
    operations = Operations(database, settings.max_operations)
    images = Images(database, engine, operations, settings.image_keep)
    runtimes = Runtimes(database, engine, operations)
    host_paths = HostPaths(settings.sockets, settings.host_dirs, settings.pipe_name_dir)
    venvs = Venvs(database, engine, operations, runtimes, images, settings.max_builds, host_paths)
    backends = Backends(database, home, engine, operations, venvs, host_paths)
    keys = Keys(database, home, backends)
    audit = AuditLog(database, settings.audit_rows)
    events = BackendEvents(backends, audit)
    secrets = SecretStore(database, home, SiteAuthorities(settings.ca_bundle))
    starter = BackendStarter(engine, settings, home, backends, venvs, images, operations, keys, secrets, events)
    updates = Updates(database, engine, backends, operations, starter)
    sleep = Sleep(database, backends)
    scaler = Scaler(database, engine, backends, operations, starter)
    reconciler = Reconciler(
        engine, operations, backends, events, scaler, sleep, updates, settings.reconcile_interval, settings.stop_grace
    )
    providers = Providers(database, venvs)
    manifest_sync = ManifestSync(settings.manifest, database, runtimes, venvs, providers, backends)
    pod_manifests = PodManifests(engine, settings, home, backends, venvs, secrets)
    auto_venvs = AutoVenvs(database, venvs, settings.auto_venv_keep)
    pruner = Pruner(engine, images, auto_venvs)
    reconciler.chores += [
        manifest_sync.sync,
        updates.update_next,
        scaler.adjust_to_load,
        sleep.adjust,
        pruner.remove_outdated,
    ]
    reconciler.chores += [keys.write_uses, keys.reload, audit.write_merged, audit.prune]
    reconciler.rare_chores += [images.remove_expired, auto_venvs.delete_expired]
    forwarder = Forwarder(backends, settings.client_files)
    operations.on_end.append(lambda _kind, _state, _seconds: reconciler.wake())
    registry = metrics.create_registry(metrics.Sources(engine.name, operations, venvs, backends, reconciler, audit))
    return Controller(
        settings, home, engine, reason, database, operations, runtimes, venvs, providers, backends, scaler,
        updates, pod_manifests, keys, audit, secrets, KeyFiles(engine, keys, secrets, backends), reconciler,
        manifest_sync, pruner, LogHub(engine), VenvRuns(engine, backends, venvs, forwarder), forwarder, registry,
    )  # fmt: skip
