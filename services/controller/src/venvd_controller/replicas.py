"""The replicas of a backend: each has its own row, with its launch, state and address.

The row of replica 0 is the row of the backend. The names of the others are the backend's name with their number.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from venvd_contract.errors import Conflict, InvalidRequest, Unimplemented, VenvdError
from venvd_contract.internal.messages import LOAD_PATH, LoadReport, RouterLoad
from venvd_contract.internal.replica_table import ReplicaEntry, ReplicaTable
from venvd_contract.resources import DRAIN_TIMEOUT, MOST_REPLICAS, BackendSpec
from venvd_contract.server_settings import merge_server_settings
from venvd_controller import certificates, probes
from venvd_controller.database.tables import FORMER, NEXT, LaunchRow, VenvRow
from venvd_engines.engine import Engine, LaunchRecord

ROUTER = -1
"""The number of the router in front of the replicas."""
_LONGEST_NAME = 63 - len("--router")
_THREADS = 8

_CLIENT_CA = "VENVD_TLS_CLIENT_CA"
_ANSWERING = frozenset({"running", "unhealthy"})
"""The states of replicas that have become ready. Other replicas have no address for clients."""
_Report = TypeVar("_Report", LoadReport, RouterLoad)
_load = TypeAdapter(LoadReport)
_router_load = TypeAdapter(RouterLoad)


def check_replicas(spec: BackendSpec, engine: Engine) -> None:
    """Check the fields about replicas.

    Raises:
        InvalidRequest: a number is out of bounds, or the name is too long for replicas.
        Unimplemented: the engine lacks a requested feature.
    """
    _check_numbers(spec)
    if spec.idleStop is not None:
        if spec.type == "pipe":
            raise InvalidRequest("idleStop: a pipe backend has no router, which starts an idle backend on a call")
        if not engine.has_routers:
            raise Unimplemented(
                f"idleStop: the engine {engine.name} has no routers, which start an idle backend on a call"
            )
    elif count_at_start(spec) == 1 and spec.maxReplicas is None:
        return
    if len(spec.name or "") > _LONGEST_NAME:
        raise InvalidRequest(f"name: a backend with replicas has a name of at most {_LONGEST_NAME} characters")


def _check_numbers(spec: BackendSpec) -> None:
    for field in ("replicas", "minReplicas", "maxReplicas"):
        number = getattr(spec, field)
        if number is not None and not 1 <= number <= MOST_REPLICAS:
            raise InvalidRequest(f"{field}: takes 1 to {MOST_REPLICAS}, not {number}")
    if spec.maxReplicas is None:
        for field in ("minReplicas", "sessionsPerReplica"):
            if getattr(spec, field) is not None:
                raise InvalidRequest(f"{field}: needs maxReplicas, which lets the controller choose their number")
    elif not (spec.minReplicas or 1) <= spec.maxReplicas:
        raise InvalidRequest(f"minReplicas: {spec.minReplicas} is more than maxReplicas, {spec.maxReplicas}")
    if spec.sessionsPerReplica is not None and spec.sessionsPerReplica < 1:
        raise InvalidRequest(f"sessionsPerReplica: takes 1 or more, not {spec.sessionsPerReplica}")


def count_at_start(spec: BackendSpec) -> int:
    """Return the number of replicas with which a backend starts."""
    if spec.maxReplicas is None:
        return spec.replicas
    return max(spec.minReplicas or 1, min(spec.replicas, spec.maxReplicas))


def choose_count(spec: BackendSpec, others: Sequence[LaunchRow]) -> int:
    """Choose the number of replicas of a running backend.

    Args:
        spec: its specification.
        others: its rows without the row of replica 0.
    """
    if spec.maxReplicas is None:
        return spec.replicas
    running = 1 + sum(each.wanted and each.drain_until is None for each in others if not each.is_router)
    return max(spec.minReplicas or 1, min(running, spec.maxReplicas))


def is_rescaled(before: BackendSpec, after: BackendSpec) -> bool:
    """Return whether a changed specification asks for a different number of replicas."""
    return any(getattr(before, field) != getattr(after, field) for field in ("replicas", "minReplicas", "maxReplicas"))


def list_reserved_ports(all_rows: Sequence[LaunchRow], row: LaunchRow) -> set[int]:
    """List the ports that launches other than that of `row` have or asked for. They keep them during a restart.

    A router gets the ports that its backend asked for, which replica 0 may have had before.
    """
    others = [each for each in all_rows if each.name != row.name and each.wanted and each.state != "failed"]
    own = _list_asked_ports(row) if row.is_router else set()
    foreign = [each for each in others if not row.is_router or row.replica_of not in {each.name, each.replica_of}]
    asked = {port for each in foreign for port in _list_asked_ports(each)}
    return asked | ({port for each in others for port in each.ports.values()} - own)


def _list_asked_ports(row: LaunchRow) -> set[int]:
    return {row.spec[field] for field in ("port", "httpPort") if row.spec[field] is not None}


def get_drain_timeout(spec: BackendSpec) -> float:
    """Return the seconds for which a draining replica keeps its sessions."""
    return DRAIN_TIMEOUT if spec.drainTimeout is None else spec.drainTimeout


def is_routed(spec: BackendSpec, venv: VenvRow | None, engine: Engine) -> bool:
    """Return whether a backend that starts as a whole gets a router in front of its replicas.

    A backend that asks its clients for certificates gets none, because a router has no client certificate to show.

    Raises:
        InvalidRequest: the backend needs a router.
    """
    wanted = count_at_start(spec) > 1 or spec.maxReplicas is not None or spec.idleStop is not None
    if not engine.has_routers or spec.type == "pipe" or not wanted:
        return False
    of_venv = {} if venv is None else venv.spec.get("server") or {}
    _, files = merge_server_settings(of_venv, spec.server, spec.type)
    if _CLIENT_CA not in files:
        return True
    if spec.idleStop is not None:
        raise InvalidRequest(
            "idleStop: a backend that asks its clients for certificates (tlsClientCa) has no router, which starts an "
            "idle backend on a call"
        )
    return False


def plan_replica(spec: BackendSpec) -> BackendSpec:
    """Make the specification of a further replica. Only replica 0 has a time to live and requested addresses."""
    return replace(spec, port=None, httpPort=None, socketDir=None, pipeName=None, ttl=None)


def list_others(session: Session, backend: str) -> Sequence[LaunchRow]:
    """List the rows of a backend except that of replica 0. The router's row comes first."""
    query = select(LaunchRow).where(LaunchRow.replica_of == backend, LaunchRow.stage.is_(None))
    return session.scalars(query.order_by(LaunchRow.replica)).all()


def list_beside(session: Session, backend: str, stage: str | None = None) -> Sequence[LaunchRow]:
    """List the rows of the launches beside a backend's replicas: all of them, or those of a stage."""
    query = select(LaunchRow).where(LaunchRow.replica_of == backend, LaunchRow.stage.is_not(None))
    return [row for row in session.scalars(query.order_by(LaunchRow.replica)) if stage in {None, row.stage}]


def group_by_backend(rows: Iterable[LaunchRow]) -> list[list[LaunchRow]]:
    """Group rows by backend, each group in the order of its replicas. A router comes last.

    The groups do not have launches beside those of replicas.
    """
    groups: dict[str, list[LaunchRow]] = {}
    for row in sorted((row for row in rows if row.stage is None), key=lambda row: (row.is_router, row.replica)):
        groups.setdefault(row.replica_of or row.name, []).append(row)
    return list(groups.values())


def combine_state(rows: Sequence[LaunchRow]) -> str:
    """Combine the states of the replicas of a backend: it runs if all do, and is `unhealthy` if some do not.

    Replicas that will be removed do not count.
    """
    rows = [row for row in rows if row.wanted and row.drain_until is None] or rows
    states = {row.state for row in rows if not (row.is_router and row.state == "running")}
    if len(states) == 1 or not rows[0].wanted:
        return rows[0].state
    if "idle" in states:
        return "starting"
    starting = states & {"pending", "starting"}
    if starting and states <= {"pending", "starting", "running"} and not all(row.started_at for row in rows):
        return "starting"
    return "unhealthy"


def combine_error(rows: Sequence[LaunchRow]) -> str | None:
    """Return the error of a backend, or the first error of its replicas, with the replica's number."""
    failed = next((row for row in rows if describe_error(row)), None)
    if failed is None or len(rows) == 1:
        return None if failed is None else describe_error(failed)
    return f"{title(failed)}: {describe_error(failed)}"


def describe_error(row: LaunchRow) -> str | None:
    """Return what is wrong with a replica, or why an update could not change it."""
    if row.error or row.update_error is None:
        return row.error
    return f"it runs on as it was, since its update failed: {row.update_error}"


def title(row: LaunchRow) -> str:
    """Return the name of a launch of a backend for a sentence."""
    return "the router" if row.is_router else f"replica {row.replica}"


def list_previous_builds(rows: Sequence[LaunchRow]) -> dict[str, str]:
    """List the keys of the builds that the launches of a backend ran before, by the names of their rows.

    Raises:
        Conflict: a launch ran no other build.
    """
    running = [row for row in rows if not row.is_router and row.drain_until is None]
    for row in running:
        if row.previous_key is None:
            raise Conflict(
                f'{title(row)} of "{rows[0].name}" has run no other build of the venv "{row.venv}" than this one: '
                "there is nothing to go back to"
            )
    return {row.name: row.previous_key for row in running if row.previous_key is not None}


def make_table(all_rows: Sequence[LaunchRow], launched: LaunchRow) -> ReplicaTable:
    """Make the table of replicas for the server or the router of a row, from the rows of all backends."""
    backend = launched.replica_of or launched.name
    everything = [row for row in all_rows if backend in (row.name, row.replica_of) and not row.is_router]
    rows = [row for row in everything if row.stage is None]
    entries = [ReplicaEntry() for _ in range(max((row.replica for row in rows), default=0) + 1)]
    for row in rows:
        entry = entries[row.replica] = ReplicaEntry(draining=row.drain_until is not None)
        if row.record is not None and row.state in _ANSWERING:
            # the replica's address leads clients of a former launch to the new one, but only over a new connection
            own = launched.stage == FORMER and launched.replica == row.replica
            _write_address(entry, LaunchRecord(**row.record), own=own)
    count, numbers = len(entries), {}
    for row in sorted(everything, key=lambda row: row.created_at):
        if row.stage == FORMER and row.wanted and row.record is not None:
            numbers[row.name] = len(entries)
            sessions = None if row.last_sessions is None else row.last_sessions["sessions"]
            entries.append(ReplicaEntry(draining=True, left=row.replica, sessions=sessions))
            _write_address(entries[-1], LaunchRecord(**row.record), own=True)
    serving = next((row for row in rows if launched.stage == NEXT and row.replica == launched.replica), None)
    if serving is not None and serving.record is not None:
        # calls reach a successor once the address leads to it, perhaps before it reads another table
        entries.append(ReplicaEntry(draining=True, left=serving.replica))
        _write_address(entries[-1], LaunchRecord(**serving.record), own=True)
    names = next((row.named_replicas for row in rows if row.replica == 0), 1)
    return ReplicaTable(min(names, count), entries, numbers.get(launched.name))


def _write_address(entry: ReplicaEntry, record: LaunchRecord, *, own: bool) -> None:
    """Write the address of a launch: that of its replica, or one that leads only to this launch."""
    entry.url = (record.own_url or record.url) if own else record.url
    entry.innerUrl, entry.innerHttpUrl = record.inner_url, record.inner_http_url
    entry.certificate = certificates.find_trusted(record) or None


def read_load(row: LaunchRow, token: str) -> LoadReport | None:
    """Ask a replica for its load. Return None if it does not answer.

    Args:
        row: the row of the replica.
        token: the token for the metrics of its backend.
    """
    return _read(row, token, _load)


def read_router_load(row: LaunchRow, token: str) -> RouterLoad | None:
    """Ask a router for its load. Return None if it does not answer."""
    return _read(row, token, _router_load)


def _read(row: LaunchRow, token: str, answer: TypeAdapter[_Report]) -> _Report | None:
    if row.record is None:
        return None
    try:
        status, body = probes.fetch(LaunchRecord(**row.record), LOAD_PATH, token)
        return answer.validate_json(body) if status == http.client.OK else None
    except (VenvdError, ValidationError):
        return None


def read_loads(rows: Sequence[LaunchRow], token: str) -> dict[int, LoadReport]:
    """Ask the replicas of a backend for their load. Leave out those that do not run or do not answer."""
    running = [row for row in rows if row.state == "running"]
    with ThreadPoolExecutor(_THREADS) as pool:
        loads = pool.map(lambda row: read_load(row, token), running)
        return {row.replica: load for row, load in zip(running, loads, strict=True) if load is not None}
