"""The replicas of a backend: each has a row of its own, with its launch, state and address.

The row of replica 0 is that of the backend. The others have the backend's name with their number behind it.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from venvd_contract.errors import InvalidRequest, Unimplemented, VenvdError
from venvd_contract.internal.messages import LOAD_PATH, LoadReport
from venvd_contract.internal.replica_table import ReplicaEntry, ReplicaTable
from venvd_contract.resources import MOST_REPLICAS, BackendSpec
from venvd_controller import probes
from venvd_controller.database.tables import BackendRow
from venvd_engines.engine import LaunchRecord

_LONGEST_NAME = 63 - len(f"--{MOST_REPLICAS}")
_THREADS = 8

_load = TypeAdapter(LoadReport)


def check_replicas(spec: BackendSpec, engine: str) -> None:
    """Check the number of replicas.

    Raises:
        InvalidRequest: it is out of bounds, or the name is too long for it.
        Unimplemented: the engine has no replicas.
    """
    if not 1 <= spec.replicas <= MOST_REPLICAS:
        raise InvalidRequest(f"replicas: takes 1 to {MOST_REPLICAS}, not {spec.replicas}")
    if spec.replicas == 1:
        return
    if engine == "kubernetes":
        raise Unimplemented(
            "replicas: the engine kubernetes runs one launch of each backend: start several backends of the venv"
        )
    if len(spec.name or "") > _LONGEST_NAME:
        raise InvalidRequest(f"name: that of a backend with replicas has at most {_LONGEST_NAME} characters")


def name_replica(backend: str, number: int) -> str:
    """Make the name of the row of a replica other than 0."""
    return f"{backend}--{number}"


def plan_replica(spec: BackendSpec) -> BackendSpec:
    """Make the specification of a further replica: replica 0 alone has a time to live and addresses asked for."""
    return replace(spec, port=None, httpPort=None, socketDir=None, pipeName=None, ttl=None)


def list_others(session: Session, backend: str) -> Sequence[BackendRow]:
    """List the rows of the replicas of a backend other than 0."""
    query = select(BackendRow).where(BackendRow.replica_of == backend)
    return session.scalars(query.order_by(BackendRow.replica)).all()


def group_by_backend(rows: Iterable[BackendRow]) -> list[list[BackendRow]]:
    """Group rows by backend, each group in the order of its replicas."""
    groups: dict[str, list[BackendRow]] = {}
    for row in sorted(rows, key=lambda row: row.replica):
        groups.setdefault(row.replica_of or row.name, []).append(row)
    return list(groups.values())


def combine_state(rows: Sequence[BackendRow]) -> str:
    """Combine the states of the replicas of a backend: it runs if all do, and is `unhealthy` if some do not."""
    states = {row.state for row in rows}
    if len(states) == 1 or not rows[0].wanted:
        return rows[0].state
    starting = states & {"pending", "starting"}
    if starting and states <= {"pending", "starting", "running"} and not all(row.started_at for row in rows):
        return "starting"
    return "unhealthy"


def combine_error(rows: Sequence[BackendRow]) -> str | None:
    """Return the error of a backend, or the first of its replicas, with its number."""
    failed = next((row for row in rows if row.error), None)
    if failed is None or len(rows) == 1:
        return None if failed is None else failed.error
    return f"replica {failed.replica}: {failed.error}"


def make_table(rows: Sequence[BackendRow]) -> ReplicaTable:
    """Make the table of replicas for the servers of a backend from its rows."""
    entries = [ReplicaEntry() for _ in range(max(row.replica for row in rows) + 1)]
    for row in rows:
        record = None if row.record is None else LaunchRecord(**row.record)
        entries[row.replica] = ReplicaEntry(
            url=row.url,
            innerUrl=record and record.inner_url,
            innerHttpUrl=record and record.inner_http_url,
            draining=row.drain_until is not None,
            certificate=record and record.certificate,
        )
    return ReplicaTable(min(rows[0].names, len(entries)), entries)


def read_loads(rows: Sequence[BackendRow], token: str) -> dict[int, int]:
    """Ask the replicas that run how many sessions they have; those that give no answer are absent.

    Args:
        rows: of one backend.
        token: for its metrics.
    """

    def read(row: BackendRow) -> tuple[int, int | None]:
        try:
            status, body = probes.fetch(LaunchRecord(**row.record or {}), LOAD_PATH, token)
            return row.replica, _load.validate_json(body).sessions if status == http.client.OK else None
        except (VenvdError, ValidationError):
            return row.replica, None

    asked = [row for row in rows if row.record is not None and row.state == "running"]
    if not asked:
        return {}
    with ThreadPoolExecutor(min(_THREADS, len(asked))) as pool:
        return {number: sessions for number, sessions in pool.map(read, asked) if sessions is not None}
