"""The controller's own numbers, in Prometheus conventions."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from venvd_controller import __version__
from venvd_controller.backends import Backends
from venvd_controller.operations import Operations
from venvd_controller.reconcile import Reconciler

_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)


class _Collector(Collector):
    def __init__(self, operations: Operations, backends: Backends, reconciler: Reconciler) -> None:
        self._operations = operations
        self._backends = backends
        self._reconciler = reconciler

    def collect(self) -> Iterator[Metric]:
        yield from self._of_operations()
        backends = GaugeMetricFamily("venvd_backends", "Backends by state.", labels=["type", "state"])
        for (kind, state), count in Tally((item.type, item.state) for item in self._backends.all()).items():
            backends.add_metric([kind, state], count)
        yield backends
        yield GaugeMetricFamily(
            "venvd_reconcile_lag_seconds",
            "Seconds since the last whole turn of the reconcile loop.",
            value=max(0.0, time.time() - (self._reconciler.last_turn or time.time())),
        )
        yield CounterMetricFamily(
            "venvd_reconcile_errors", "Turns, or backends in a turn, that failed.", value=self._reconciler.errors
        )
        yield GaugeMetricFamily(
            "venvd_engine_up", "Whether the engine answered in the last turn.",
            value=0 if self._reconciler.engine_error else 1,
        )  # fmt: skip
        build = GaugeMetricFamily("venvd_controller_build_info", "The controller's version.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build

    def _of_operations(self) -> Iterator[Metric]:
        infos = self._operations.all()
        running = GaugeMetricFamily("venvd_operations", "Operations that are kept, by state.", labels=["kind", "state"])
        for (kind, state), count in Tally((info.kind, info.state) for info in infos).items():
            running.add_metric([kind, state], count)
        yield running


def registry(operations: Operations, backends: Backends, reconciler: Reconciler) -> CollectorRegistry:
    found = CollectorRegistry()
    found.register(_Collector(operations, backends, reconciler))
    durations = Histogram(
        "venvd_operation_duration_seconds", "How long operations took, by kind and outcome.", ["kind", "state"],
        buckets=_BUCKETS, registry=found,
    )  # fmt: skip
    operations.on_done = lambda kind, state, seconds: durations.labels(kind, state).observe(seconds)
    return found


def text(registry: CollectorRegistry) -> bytes:
    """All numbers in Prometheus' text format."""
    return generate_latest(registry)
