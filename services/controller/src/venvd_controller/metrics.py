"""The controller's own numbers, in Prometheus conventions.

What can be known beforehand is there from the start, at 0: Prometheus sees no increase in a counter that appears at 1.
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

from venvd_contract.resources import BACKEND_TYPES
from venvd_controller import __version__, backends, runtimes, venvs
from venvd_controller.operations import ACTIVE, DONE, Operations
from venvd_controller.reconcile import Reconciler

_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)
_KINDS = (runtimes.KIND, venvs.KIND, backends.KIND)
_OF_BACKENDS = ("pending", "starting", "running", "unhealthy", "stopping", "failed")
_OF_VENVS = ("pending", "building", "ready", "failed")


@dataclass
class Sources:
    """Where the numbers come from."""

    engine: str
    operations: Operations
    venvs: venvs.Venvs
    backends: backends.Backends
    reconciler: Reconciler
    began: float = field(default_factory=time.time)


class _Collector(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def describe(self) -> Iterable[Metric]:
        return ()  # what is registered need not be collected first

    def collect(self) -> Iterator[Metric]:
        yield from self._what_is_kept()
        yield from self._of_the_loop()
        build = GaugeMetricFamily(
            "venvd_controller_build_info", "What runs here.", labels=["version", "python", "engine"]
        )
        build.add_metric([__version__, platform.python_version(), self._sources.engine], 1)
        yield build

    def _what_is_kept(self) -> Iterator[Metric]:
        found = self._sources.backends.rows()
        yield _tally(
            GaugeMetricFamily("venvd_backends", "Backends by state.", labels=["type", "state"]),
            ((item.spec["type"], item.state) for item in found),
            ((kind, state) for kind in BACKEND_TYPES for state in _OF_BACKENDS),
        )
        restarts = CounterMetricFamily(
            "venvd_backend_restarts", "Times that a backend was started again by itself.", labels=["backend"]
        )
        for item in found:
            restarts.add_metric([item.name], item.restarts)
        yield restarts
        yield _tally(
            GaugeMetricFamily("venvd_venvs", "Venvs by state.", labels=["state"]),
            ((item.state,) for item in self._sources.venvs.all()),
            ((state,) for state in _OF_VENVS),
        )
        yield _tally(
            GaugeMetricFamily("venvd_operations", "Operations that wait or run.", labels=["kind", "state"]),
            self._sources.operations.counts(ACTIVE).elements(),
            ((kind, state) for kind in _KINDS for state in ACTIVE),
        )

    def _of_the_loop(self) -> Iterator[Metric]:
        reconciler = self._sources.reconciler
        yield GaugeMetricFamily(
            "venvd_reconcile_lag_seconds",
            "Seconds since the last whole turn of the reconcile loop, or since the start where there was none.",
            value=max(0.0, time.time() - (reconciler.last_turn or self._sources.began)),
        )
        yield CounterMetricFamily(
            "venvd_reconcile_errors", "Turns, or backends in a turn, that failed.", value=reconciler.errors
        )
        up = 0 if reconciler.engine_error else 1
        yield GaugeMetricFamily("venvd_engine_up", "Whether the engine answered in the last turn.", value=up)


def _tally(
    family: GaugeMetricFamily, found: Iterable[tuple[str, ...]], known: Iterable[tuple[str, ...]]
) -> GaugeMetricFamily:
    counts = Tally(found)
    for labels in sorted({*known, *counts}):
        family.add_metric(labels, counts[labels])
    return family


def registry(sources: Sources) -> CollectorRegistry:
    """Everything that is measured from now on."""
    made = CollectorRegistry()
    made.register(_Collector(sources))
    ProcessCollector(registry=made)
    operations = Histogram(
        "venvd_operation_duration_seconds", "How long operations took, by kind and outcome.", ["kind", "state"],
        buckets=_BUCKETS, registry=made,
    )  # fmt: skip
    builds = Histogram(
        "venvd_build_duration_seconds", "How long builds of venvs took, also those that a start began, by outcome.",
        ["outcome"], buckets=_BUCKETS, registry=made,
    )  # fmt: skip
    for outcome in DONE:
        builds.labels(outcome)
        for kind in _KINDS:
            operations.labels(kind, outcome)
    sources.operations.on_done.append(lambda kind, state, seconds: operations.labels(kind, state).observe(seconds))
    sources.venvs.on_built = lambda outcome, seconds: builds.labels(outcome).observe(seconds)
    return made


def text(registry: CollectorRegistry) -> bytes:
    """All numbers in Prometheus' text format."""
    return generate_latest(registry)
