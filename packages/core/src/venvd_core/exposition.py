"""The metrics of a backend in the text format of Prometheus. The first scrape imports this module and its library."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from venvd_core.metrics import BUCKETS, CAUSES, Gauges, GaugeSource, Metrics


class Exposition(Collector):
    """Writes the metrics of a backend in the text format of Prometheus."""

    def __init__(self, metrics: Metrics, gauges: GaugeSource) -> None:
        self._metrics = metrics
        self._gauges = gauges
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def write(self) -> bytes:
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield from self._collect_counters()
        yield from self._collect_direct()
        yield from self._collect_refusals()
        yield from self._collect_egress()
        yield from self._collect_gauges(self._gauges.gauges())

    def _collect_counters(self) -> Iterable[Metric]:
        metrics = self._metrics
        requests = CounterMetricFamily("venvd_requests", "Calls answered.", labels=("command", "outcome"))
        for command, tally in metrics.tallies.items():
            tally.count()
            for outcome, count in tally.outcomes.items():
                requests.add_metric((command, outcome), count)
        yield requests
        seconds = HistogramMetricFamily(
            "venvd_request_duration_seconds", "Time from a call's arrival to its answer.", labels=("command",)
        )
        for command, tally in metrics.tallies.items():
            if any(tally.buckets):
                seconds.add_metric((command,), _cumulative(tally.buckets), tally.seconds)
        yield seconds
        restarts = CounterMetricFamily("venvd_worker_restarts", "Processes of sessions replaced.", labels=("cause",))
        for cause in sorted(CAUSES | {"other"}):
            restarts.add_metric((cause,), metrics.restarts[cause])
        yield restarts
        yield CounterMetricFamily(
            "venvd_request_bytes", "Bytes of payloads and attachments received.", value=metrics.bytes_in
        )
        yield CounterMetricFamily(
            "venvd_response_bytes", "Bytes of results and attachments sent.", value=metrics.bytes_out
        )

    def _collect_refusals(self) -> Iterable[Metric]:
        refused = CounterMetricFamily(
            "venvd_refused_requests",
            "Requests without a token, or with one that is wrong or does not allow them.",
            labels=("code", "peer"),
        )
        for labels, count in self._metrics.refused_tokens.items():
            refused.add_metric(labels, count)
        yield refused

    def _collect_egress(self) -> Iterable[Metric]:
        refused = CounterMetricFamily(
            "venvd_egress_refused", "Connections that the egress broker refused.", labels=("reason",)
        )
        for reason, count in self._metrics.egress_refused.items():
            refused.add_metric((reason,), count)
        yield refused

    def _collect_direct(self) -> Iterable[Metric]:
        metrics = self._metrics
        calls = CounterMetricFamily(
            "venvd_direct_requests", "Calls of direct clients that sessions answered.", labels=("outcome",)
        )
        calls.add_metric(("ok",), metrics.direct_calls - metrics.direct_errors)
        calls.add_metric(("error",), metrics.direct_errors)
        yield calls
        yield CounterMetricFamily(
            "venvd_direct_request_bytes", "Bytes received from direct clients.", value=metrics.direct_bytes_in
        )
        yield CounterMetricFamily(
            "venvd_direct_response_bytes", "Bytes sent to direct clients.", value=metrics.direct_bytes_out
        )

    def _collect_gauges(self, now: Gauges) -> Iterable[Metric]:
        yield GaugeMetricFamily("venvd_ready", "1 while the default session can take calls.", value=now.ready)
        yield GaugeMetricFamily("venvd_requests_in_flight", "Running calls.", value=now.in_flight)
        yield GaugeMetricFamily("venvd_queue_depth", "Calls that wait for their session.", value=now.queued)
        sessions = GaugeMetricFamily("venvd_sessions", "Sessions by state.", labels=("state",))
        for state, count in now.sessions.items():
            sessions.add_metric((state,), count)
        yield sessions
        yield GaugeMetricFamily("venvd_sessions_max", "Limit on sessions.", value=now.most_sessions)
        yield GaugeMetricFamily("venvd_direct_clients", "Connections handed to sessions.", value=now.attached)
        yield GaugeMetricFamily("venvd_handles", "Objects held by handle.", value=now.handles)
        memory = GaugeMetricFamily("venvd_worker_memory_bytes", "Resident memory of the worker host.", labels=("part",))
        for part, size in now.memory.items():
            memory.add_metric((part,), size)
        yield memory
        yield GaugeMetricFamily("venvd_zygote_ready", "1 while sessions are forked.", value=now.zygote_ready)
        preloaded = GaugeMetricFamily(
            "venvd_preloaded", "1 for a module that the zygote imported, 0 if that failed.", labels=("module",)
        )
        for module, imported in now.preloaded.items():
            preloaded.add_metric((module,), imported)
        yield preloaded
        yield InfoMetricFamily(
            "venvd_build", "Versions of the server, its worker host and the user's CPython.", value=now.build
        )
        yield InfoMetricFamily("venvd_session_walls", "How sessions are isolated.", value=now.walls)


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    cumulative: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
        total += count
        cumulative.append((bound, total))
    return cumulative
