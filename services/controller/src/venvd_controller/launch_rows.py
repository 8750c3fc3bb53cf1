"""Makes rows of backends, and the resources that the API shows for them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from venvd_contract.resources import Backend, BackendLimits, BackendSpec, Replica, Walls
from venvd_controller import replicas
from venvd_controller.clock import add_seconds, now
from venvd_controller.database.tables import LaunchRow, VenvRow
from venvd_engines.addresses import url_host
from venvd_engines.engine import ROUTER, SERVERS, Engine

_FIRST_DELAY = 2.0
_MAX_DELAY = 60.0
"""The most seconds between two starts of a backend that fails. The delay doubles with each failure."""


def make_row(name: str, spec: BackendSpec, *, declared: bool) -> LaunchRow:
    return LaunchRow(
        name=name,
        venv=spec.venv,
        spec=asdict(spec),
        wanted=True,
        state="pending",
        created_at=now(),
        nonce=secrets.token_hex(12),
        ports={},
        restarts=0,
        failures=0,
        retry_at=0.0,
        declared=declared,
        replica=0,
        named_replicas=1,
    )


def read_spec(row: LaunchRow) -> BackendSpec:
    fields: dict[str, Any] = dict(row.spec)
    return BackendSpec(**{**fields, "limits": BackendLimits(**fields["limits"])})


def get_retry_delay(failures: int) -> float:
    """Return the seconds before the next start, after `failures` successive failures."""
    return min(_MAX_DELAY, _FIRST_DELAY * 2.0 ** (failures - 1)) if failures else 0.0


def get_version(row: LaunchRow) -> tuple[object, ...]:
    """Return the columns that every operation and command changes."""
    return (row.launch, row.state, row.operation, row.wanted, row.failures)


def find_expiry(row: LaunchRow) -> str | None:
    """Return the time at which the time to live of a backend ends, or None."""
    ttl = row.spec.get("ttl")
    return None if ttl is None else add_seconds(row.created_at, ttl)


@dataclass(frozen=True)
class Newest:
    """What a start would give a backend now.

    Attributes:
        builds: the key of the newest image of each venv that has one.
        servers: the engine's identity of the server of each type; null is unknown.
    """

    builds: Mapping[str, str]
    servers: Mapping[str, str | None]

    def replaces(self, row: LaunchRow) -> bool:
        """Return whether a start would give a running backend another build of its venv, or another server."""
        if row.record is None:
            return False
        server = self.servers[ROUTER if row.is_router else row.spec["type"]]
        if row.is_router:  # a router runs nothing of the venv
            return server not in {None, row.server}
        newest = self.builds.get(row.venv, row.key)
        return row.key != newest or server not in {None, row.server}

    def identify(self, row: LaunchRow) -> str:
        """Identify the build and the server that a start would give a running backend."""
        server = self.servers[ROUTER if row.is_router else row.spec["type"]]
        return f"{self.builds.get(row.venv, row.key)}/{server}"

    def replaces_by_itself(self, row: LaunchRow) -> bool:
        """Return whether `update: rolling` replaces a launch. It does not return to the build that a rollback left."""
        is_left = row.pinned_key is not None and self.builds.get(row.venv) == row.previous_key
        return self.replaces(row) and not is_left


def find_newest(session: Session, engine: Engine) -> Newest:
    """Read the newest builds, and ask the engine for its servers."""
    query = select(VenvRow.name, VenvRow.image["key"].as_string()).where(VenvRow.image.is_not(None))
    builds = {name: key for name, key in session.execute(query) if key is not None}
    return Newest(builds, {each: engine.identify_server(each) for each in SERVERS})


def _make_http_url(row: LaunchRow) -> str | None:
    """Make the published address of a gRPC server's HTTP port; None if it has no such port yet."""
    port = row.ports.get("http") if row.spec["type"] == "rpc" else None
    return None if port is None else f"http://{url_host(row.spec['host'])}:{port}"


def create_resource(
    rows: Sequence[LaunchRow], newest: Newest, engine: str, token: str | None, *, updating: bool
) -> Backend:
    """Create the resource of a backend from the rows of its replicas, followed by the row of its router."""
    row, front = rows[0], rows[-1] if rows[-1].is_router else rows[0]
    launched = [each for each in rows if not each.is_router]
    return Backend(
        name=row.name,
        type=row.spec["type"],
        venv=row.venv,
        state=replicas.combine_state(rows),
        spec=read_spec(row),
        engine=engine,
        createdAt=row.created_at,
        url=front.url,
        httpUrl=_make_http_url(front),
        token=token,
        python=row.python,
        key=row.key,
        startedAt=row.started_at,
        restarts=sum(each.restarts for each in rows),
        error=replicas.combine_error(rows),
        operation=row.operation,
        walls=None if row.walls is None else Walls(**row.walls),
        outdated=any(newest.replaces(each) for each in rows),
        updating=updating,
        expiresAt=find_expiry(row),
        replicas=[describe_replica(each) for each in launched] if len(rows) > 1 else [],
    )


def describe_replica(row: LaunchRow) -> Replica:
    return Replica(
        number=row.replica,
        state=row.state,
        url=row.url,
        httpUrl=_make_http_url(row),
        startedAt=row.started_at,
        restarts=row.restarts,
        error=replicas.describe_error(row),
        draining=row.drain_until is not None,
    )
