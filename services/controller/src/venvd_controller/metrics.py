"""The controller's own metrics, in Prometheus conventions.

Every known series exists from the start with the value 0: Prometheus sees no increase in a counter that appears at 1.
"""

from __future__ import annotations

import platform
import time
from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from venvd_contract.internal.audit import REFUSALS
from venvd_contract.resources import BACKEND_TYPES
from venvd_controller import __version__, backends, runtimes, venvs
from venvd_controller.audit import AuditLog
from venvd_controller.operations import ACTIVE, DONE, Operations
from venvd_controller.reconciler import Reconciler

_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)
_KINDS = (runtimes.KIND, venvs.KIND, backends.KIND, backends.UPDATE)
_BACKEND_STATES = ("pending", "starting", "running", "idle", "unhealthy", "stopping", "failed")
_VENV_STATES = ("pending", "building", "ready", "failed")


@dataclass
class Sources:
    """The parts that the metrics read."""

    engine: str
    operations: Operations
    venvs: venvs.Venvs
    backends: backends.Backends
    reconciler: Reconciler
    audit: AuditLog
    started: float = field(default_factory=time.time)


class _Collector(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def describe(self) -> Iterable[Metric]:
        return ()  # otherwise the registry would collect everything once to learn the names

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_state()
        yield from self._collect_loop()
        refused = CounterMetricFamily(
            "venvd_refused_requests", "Requests whose token was missing, wrong or not enough.", labels=["code", "peer"]
        )
        for labels in REFUSALS:
            refused.add_metric(labels, self._sources.audit.refused[labels])
        yield refused
        build = GaugeMetricFamily(
            "venvd_controller_build_info",
            "Versions of the controller and its CPython, and the engine.",
            labels=["version", "python", "engine"],
        )
        build.add_metric([__version__, platform.python_version(), self._sources.engine], 1)
        yield build

    def _collect_state(self) -> Iterator[Metric]:
        rows = self._sources.backends.list_rows()
        yield _count_labels(
            GaugeMetricFamily("venvd_backends", "Backends by state.", labels=["type", "state"]),
            self._sources.backends.list_states(),
            ((kind, state) for kind in BACKEND_TYPES for state in _BACKEND_STATES),
        )
        restarts = CounterMetricFamily(
            "venvd_backend_restarts", "Restarts of a backend that ended by itself.", labels=["backend"]
        )
        for row in (row for row in rows if row.stage is None):
            restarts.add_metric([row.name], row.restarts)
        yield restarts
        yield _count_labels(
            GaugeMetricFamily("venvd_venvs", "Venvs by state.", labels=["state"]),
            ((venv.state,) for venv in self._sources.venvs.list_all()),
            ((state,) for state in _VENV_STATES),
        )
        yield _count_labels(
            GaugeMetricFamily("venvd_operations", "Queued and running operations.", labels=["kind", "state"]),
            self._sources.operations.count(ACTIVE).elements(),
            ((kind, state) for kind in _KINDS for state in ACTIVE),
        )

    def _collect_loop(self) -> Iterator[Metric]:
        reconciler = self._sources.reconciler
        yield GaugeMetricFamily(
            "venvd_reconcile_lag_seconds",
            "Seconds since the last complete turn of the reconcile loop, before the first since the start.",
            value=max(0.0, time.time() - (reconciler.last_turn or self._sources.started)),
        )
        yield CounterMetricFamily(
            "venvd_reconcile_errors",
            "Failed turns of the reconcile loop, and failures of single backends.",
            value=reconciler.errors,
        )
        up = 0 if reconciler.engine_error else 1
        yield GaugeMetricFamily("venvd_engine_up", "Whether the engine answered in the last turn.", value=up)


def _count_labels(
    family: GaugeMetricFamily, observed: Iterable[tuple[str, ...]], known: Iterable[tuple[str, ...]]
) -> GaugeMetricFamily:
    """Count the observed labels. Known labels that were not observed count 0."""
    counts = Tally(observed)
    for labels in sorted({*known, *counts}):
        family.add_metric(labels, counts[labels])
    return family


def create_registry(sources: Sources) -> CollectorRegistry:
    """Create the registry of all metrics, and observe operations and builds from now on."""
    registry = CollectorRegistry()
    registry.register(_Collector(sources))
    ProcessCollector(registry=registry)
    operations = Histogram(
        "venvd_operation_duration_seconds", "Duration of operations, by kind and outcome.", ["kind", "state"],
        buckets=_BUCKETS, registry=registry,
    )  # fmt: skip
    builds = Histogram(
        "venvd_build_duration_seconds", "Duration of builds of venvs, also in starts of backends, by outcome.",
        ["outcome"], buckets=_BUCKETS, registry=registry,
    )  # fmt: skip
    for outcome in DONE:
        builds.labels(outcome)
        for kind in _KINDS:
            operations.labels(kind, outcome)
    sources.operations.on_end.append(lambda kind, state, seconds: operations.labels(kind, state).observe(seconds))
    sources.venvs.on_build_end.append(lambda outcome, seconds: builds.labels(outcome).observe(seconds))
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """Render all metrics in Prometheus' text format."""
    return generate_latest(registry)
