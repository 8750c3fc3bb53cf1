"""Counts what passes through the router, and shows the counts to Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from venvd_contract.internal.messages import RouterLoad
from venvd_router.replicas import Replicas
from venvd_router.upstream import Upstream


class Activity:
    """Counts the calls that pass through.

    Attributes:
        moves: how many answers of replicas said that a session lives elsewhere.
        streams: how many gRPC calls run at each replica, by its number.
    """

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._calls = 0
        self._ended_at = time.monotonic()
        self.moves = 0
        self.outcomes: Counter[tuple[int, str]] = Counter()
        self.streams: Counter[int] = Counter()

    def begin(self) -> None:
        """Note that a call begins."""
        self._calls += 1

    def end(self) -> None:
        """Note that a call has ended."""
        self._calls -= 1
        self._ended_at = time.monotonic()

    @contextmanager
    def run(self) -> Iterator[None]:
        """Count a call while it passes through."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    @contextmanager
    def use(self, number: int) -> Iterator[None]:
        """Count a gRPC call at a replica while it runs."""
        self.streams[number] += 1
        try:
            yield
        finally:
            self.streams[number] -= 1

    def count(self, number: int, outcome: str) -> None:
        """Count an answer of a replica: its status, or the error's code if there was no answer."""
        self.outcomes[number, outcome] += 1

    def report(self) -> RouterLoad:
        """Return the load of the router, for the controller."""
        idle = 0.0 if self._calls else time.monotonic() - self._ended_at
        return RouterLoad(self._calls, self._replicas.waiting, len(self._replicas.list_reachable()), idle)


class Metrics(Collector):
    """The metrics of a router."""

    def __init__(self, activity: Activity, replicas: Replicas, upstream: Upstream) -> None:
        self._activity = activity
        self._replicas = replicas
        self._upstream = upstream
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """Render the present metrics."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics, for the library."""
        activity, table = self._activity, self._replicas.table
        requests = CounterMetricFamily(
            "venvd_router_requests",
            "Requests that were sent to a replica; the outcome is its status or the code of an error",
            labels=["replica", "outcome"],
        )
        for (number, outcome), count in sorted(activity.outcomes.items()):
            requests.add_metric([str(number), outcome], count)
        yield requests
        moves = "Answers of replicas that sent a request to another one"
        yield CounterMetricFamily("venvd_router_moves", moves, value=activity.moves)
        tables = "Tables of replicas that were read"
        yield CounterMetricFamily("venvd_router_tables", tables, value=self._replicas.tables)
        load = activity.report()
        yield GaugeMetricFamily("venvd_router_calls", "Calls that pass through", value=load.calls)
        waiting = "Requests that wait, since no replica has an address"
        yield GaugeMetricFamily("venvd_router_waiting", waiting, value=load.waiting)
        connections = GaugeMetricFamily(
            "venvd_router_connections", "HTTP connections and gRPC calls to replicas", labels=["replica", "state"]
        )
        idle = self._upstream.count_idle()
        for number in range(len(table.replicas)):
            connections.add_metric([str(number), "used"], self._upstream.in_use[number] + activity.streams[number])
            connections.add_metric([str(number), "idle"], idle[number])
        yield connections
        known = GaugeMetricFamily("venvd_router_replicas", "Replicas in the table", labels=["state"])
        known.add_metric(["known"], table.count)
        known.add_metric(["reachable"], len(self._replicas.list_reachable()))
        known.add_metric(["open"], len(table.list_open()))
        yield known
