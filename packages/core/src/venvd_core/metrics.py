"""The counters of a backend. Every call updates them, so they are plain; `venvd_core.exposition` renders them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Protocol

from venvd_contract.commands import ATTACH, COMMANDS, STREAMED
from venvd_contract.errors import Internal, VenvdError
from venvd_contract.internal.audit import REFUSALS, classify_peer
from venvd_core import logs
from venvd_core.callers import Caller, name_caller
from venvd_core.calls import Call

BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
_BATCH = 64
CAUSES = frozenset({"exit", "signal", "memory", "cpu", "interrupt", "kill", "idle", "reset", "worker host"})


@dataclass
class Gauges:
    """The current state of a backend, from its pool."""

    in_flight: int = 0
    queued: int = 0
    sessions: dict[str, int] = field(default_factory=dict)
    """By state."""
    most_sessions: int = 0
    handles: int = 0
    attached: int = 0
    """Direct clients."""
    ready: bool = False
    memory: dict[str, int] = field(default_factory=dict)
    """Resident bytes of `sessions`, the `warden` and the `zygote`."""
    zygote_ready: bool = False
    preloaded: dict[str, bool] = field(default_factory=dict)
    """Whether the import succeeded, by module."""
    build: dict[str, str] = field(default_factory=dict)
    walls: dict[str, str] = field(default_factory=dict)
    """How sessions are isolated; empty until the worker host has joined."""


class GaugeSource(Protocol):
    def gauges(self) -> Gauges: ...


class Tally:
    """The calls of one command.

    Attributes:
        outcomes: number of calls by outcome: "ok", or the code of the error.
        buckets: number of calls by duration, with the bounds of `BUCKETS`.
        seconds: total duration.
    """

    __slots__ = ("buckets", "outcomes", "seconds", "uncounted")

    def __init__(self) -> None:
        # these two start at 0: Prometheus sees no increase in a counter that first appears at 1
        self.outcomes: Counter[str] = Counter({"ok": 0, Internal.code: 0})
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.uncounted: list[float] = []
        """Durations of successful calls that are not in the buckets yet: a batch takes less time than single calls."""

    def count(self) -> None:
        """Count the calls in `uncounted`."""
        durations, self.uncounted = sorted(self.uncounted), []
        self.outcomes["ok"] += len(durations)
        self.seconds += sum(durations)
        counted = 0
        while counted < len(durations):
            bucket = bisect_left(BUCKETS, durations[counted])
            until = len(durations) if bucket == len(BUCKETS) else bisect_right(durations, BUCKETS[bucket])
            self.buckets[bucket] += until - counted
            counted = until


class Metrics:
    """Counters of one backend."""

    def __init__(self) -> None:
        self.tallies = defaultdict(Tally, {each.name: Tally() for each in (*COMMANDS, *STREAMED)})
        self.restarts: Counter[str] = Counter()
        self.bytes_in = 0
        self.bytes_out = 0
        self.direct_calls = 0
        self.direct_errors = 0
        self.direct_bytes_in = 0
        self.direct_bytes_out = 0
        self.egress_refused: Counter[str] = Counter(dict.fromkeys(("destination", "address", "unreachable"), 0))
        """Connections that the egress broker refused, by reason."""
        self.refused_tokens: Counter[tuple[str, str]] = Counter(dict.fromkeys(REFUSALS, 0))
        """Refused requests by error code and kind of peer."""
        self._every_call = logs.logs_every_call()

    def record_call(
        self,
        call: Call,
        outcome: str,
        seconds: float,
        size: int = 0,
        session: str | None = None,
        error: VenvdError | None = None,
    ) -> None:
        """Count a call that ended with `size` bytes of result and attachments."""
        request = call.request
        if call.preliminary and error is None:
            return
        tally = self.tallies[request.command]
        if error is None and outcome == "ok":
            tally.uncounted.append(seconds)
            if len(tally.uncounted) == _BATCH:
                tally.count()
        else:
            tally.outcomes[outcome] += 1
            tally.buckets[bisect_left(BUCKETS, seconds)] += 1
            tally.seconds += seconds
        received = len(request.payload)
        if request.attachments:
            received += sum(map(len, request.attachments))
        self.bytes_in += received
        self.bytes_out += size
        if error is not None or self._every_call:
            sizes = {"bytesIn": received, "bytesOut": size}
            key = name_caller(request.caller)
            logs.log_call(request.command, outcome, key=key, seconds=seconds, session=session, error=error, **sizes)

    def record_bytes(self, size: int, *, out: bool) -> None:
        """Count bytes outside of requests and results; `record_call` counts those."""
        if out:
            self.bytes_out += size
        else:
            self.bytes_in += size

    def record_refusal(self, command: str, error: VenvdError, caller: Caller | None) -> None:
        """Count a call that was refused before its command ran."""
        self.tallies[command].outcomes[error.code] += 1
        logs.log_call(command, error.code, key=name_caller(caller), error=error)

    def record_refused_token(self, code: str, peer: str) -> None:
        """Count a request without a token, or with one that is wrong or does not allow it."""
        self.refused_tokens[code, classify_peer(peer)] += 1

    def record_attach(self) -> None:
        """Count a connection that was handed to a session; its duration is not measured."""
        self.tallies[ATTACH].outcomes["ok"] += 1

    def record_direct(self, calls: int, failed: int, received: int, sent: int) -> None:
        """Count further calls and bytes between direct clients and a session, as the session reports them."""
        self.direct_calls += calls
        self.direct_errors += failed
        self.direct_bytes_in += received
        self.direct_bytes_out += sent

    def record_restart(self, cause: str) -> None:
        self.restarts[cause if cause in CAUSES else "other"] += 1
