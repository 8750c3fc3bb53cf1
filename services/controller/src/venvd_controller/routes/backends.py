"""`/v1/backends`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Response, status
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime

from venvd_contract.access import OPERATOR
from venvd_contract.errors import NotFound, Unavailable
from venvd_contract.resources import (
    Backend,
    BackendSpec,
    BackendStart,
    LogLine,
    PodManifest,
    Replica,
    RotationSpec,
    ScaleSpec,
    TokenRotation,
)
from venvd_controller import probes, replicas, streams
from venvd_controller.audit import list_changes
from venvd_controller.callers import Caller
from venvd_controller.guarded_fields import guard_backend
from venvd_controller.launch_rows import describe_replica
from venvd_controller.routes.access import ANY, needs, needs_for_backend, needs_for_start
from venvd_controller.routes.dependencies import (
    METRICS_TEXT,
    CallerDep,
    ChangesDep,
    ControllerDep,
    JsonBody,
    PageOf,
    PagingDep,
)

router = APIRouter(prefix="/v1/backends", tags=["backends"])
_MAX_REMOVAL_WAIT = 30.0
_LAST_LINES = 1000
_USUAL_ROTATION = RotationSpec()
_needs_venv = needs_for_backend("venv:{venv}")


def _show(caller: Caller, backend: Backend) -> Backend:
    """Return a backend as a caller may see it. The owner of a key calls with the key, which ends when it is revoked."""
    return backend if caller.is_operator else replace(backend, token=None)


@router.get("", dependencies=[needs(*ANY)])
def list_backends(controller: ControllerDep, caller: CallerDep, paging: PagingDep) -> PageOf[Backend]:
    """List the backends that the caller may use. Only operators see their tokens."""
    backends = controller.backends.list_all(paging.after, paging.fetch_limit, caller.visible)
    return paging.create_page([_show(caller, backend) for backend in backends], "name")


@router.post("", status_code=status.HTTP_202_ACCEPTED, dependencies=[needs_for_start("venv:{venv}")])
def start_backend(
    controller: ControllerDep, caller: CallerDep, changes: ChangesDep, spec: JsonBody[BackendSpec]
) -> BackendStart:
    """Start a backend. If its first start fails, it stays `failed` with its error until a client deletes it, restarts
    it, or starts another backend of the same name.
    """
    allowed = guard_backend(caller, spec, controller.venvs.find_spec(spec.venv), controller.settings)
    backend, operation = controller.backends.start(allowed, visible=caller.visible)
    changes.fields = {"type": spec.type, "name": backend.name, **list_changes(BackendSpec(spec.type), spec)}
    return BackendStart(_show(caller, backend), operation)


@router.post("/manifest", dependencies=[needs(OPERATOR)])
def make_manifest(
    controller: ControllerDep,
    changes: ChangesDep,
    spec: JsonBody[BackendSpec],
    image: Annotated[str | None, Query(min_length=1, max_length=1000, description="of the client")] = None,
    tokenVersion: Annotated[int, Query(ge=1, le=1_000_000_000)] = 1,  # noqa: N803 - a name on the wire
) -> PodManifest:
    """Make the manifest of a pod of Kubernetes with a client and a backend of type `pipe` beside it. Nothing is started
    and nothing is kept. Equal requests get equal manifests, and each `tokenVersion` has a token of its own.
    """
    made = controller.pod_manifests.make(spec, image, tokenVersion)
    changes.fields = {"name": made.name, "tokenVersion": tokenVersion, **list_changes(BackendSpec(spec.type), spec)}
    return made


@router.get("/{name}", dependencies=[needs_for_backend("use:{name}", "venv:{venv}")])
def get_backend(controller: ControllerDep, caller: CallerDep, name: str) -> Backend:
    """Return a backend. Only operators see its token; the owner of a key uses the key in its place."""
    return _show(caller, controller.backends.get(name))


@router.delete(
    "/{name}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses={202: {"description": "The removal goes on"}},
    dependencies=[_needs_venv],
)
def delete_backend(
    controller: ControllerDep,
    name: str,
    wait: Annotated[float, Query(ge=0, le=_MAX_REMOVAL_WAIT)] = _MAX_REMOVAL_WAIT,
    untilChanged: bool = False,  # noqa: N803 - a name on the wire
) -> Response:
    """Stop and remove a backend: 204 when it is gone, 202 if that takes longer than `wait` seconds and goes on. One
    that the manifest declares is a `conflict`; with `untilChanged`, it is stopped until the manifest changes.
    """
    controller.manifest_sync.stop_backend(name, until_changed=untilChanged)
    controller.reconciler.wake()
    end = time.monotonic() + wait
    while True:
        try:
            controller.backends.get_row(name)
        except NotFound:
            return Response(status_code=status.HTTP_204_NO_CONTENT)
        if time.monotonic() >= end:
            return Response(status_code=status.HTTP_202_ACCEPTED)
        time.sleep(0.05)


@router.post("/{name}/restart", status_code=status.HTTP_202_ACCEPTED, dependencies=[_needs_venv])
def restart_backend(controller: ControllerDep, caller: CallerDep, name: str) -> BackendStart:
    """Restart a backend. It gets the newest build of its venv, and its sessions end."""
    backend, operation = controller.backends.restart(name)
    return BackendStart(_show(caller, backend), operation)


@router.post("/{name}/rollback", status_code=status.HTTP_202_ACCEPTED, dependencies=[_needs_venv])
def roll_backend_back(controller: ControllerDep, caller: CallerDep, name: str) -> BackendStart:
    """Take a backend back to the build of its venv that it ran before, once a launch with that build is ready.

    It keeps that build until a client restarts it, even if it ends meanwhile. A second rollback returns to the later
    build. The sessions of the launch that is replaced end with it, after `drainTimeout` at the latest.
    """
    backend, operation = controller.updates.roll_back(name)
    return BackendStart(_show(caller, backend), operation)


@router.post("/{name}/scale", status_code=status.HTTP_202_ACCEPTED, dependencies=[needs_for_backend(OPERATOR)])
def scale_backend(controller: ControllerDep, caller: CallerDep, name: str, spec: JsonBody[ScaleSpec]) -> BackendStart:
    """Change the number of replicas of a backend while it runs. One that is removed takes no new sessions, and ends
    with those that it has, or after the `drainTimeout` of the backend. The operation waits for new ones.
    """
    backend, operation = controller.scaler.scale(name, spec.replicas)
    return BackendStart(_show(caller, backend), operation)


@router.post("/{name}/token", dependencies=[needs_for_backend(OPERATOR)])
def rotate_token(controller: ControllerDep, name: str, spec: JsonBody[RotationSpec] = _USUAL_ROTATION) -> TokenRotation:
    """Give a backend a new token without a restart. All tokens before it end after `overlap` seconds, with the
    connections and calls that use them.
    """
    return controller.backends.rotate_token(name, spec.overlap)


@router.get("/{name}/replicas", dependencies=[needs_for_backend("use:{name}", "venv:{venv}")])
def list_replicas(controller: ControllerDep, name: str) -> PageOf[Replica]:
    """List the replicas of a backend with the number of sessions that each has now: a client creates a new session on
    the one that has the fewest of those that are `running`.
    """
    rows = controller.backends.list_replicas(name)
    loads = replicas.read_loads(rows, controller.backends.tokens.derive_for_metrics(rows[0]))
    counts = {number: load.sessions for number, load in loads.items()}
    return PageOf([replace(describe_replica(row), sessions=counts.get(row.replica)) for row in rows])


@router.get("/{name}/logs", response_model=PageOf[LogLine], dependencies=[_needs_venv])
async def get_logs(
    controller: ControllerDep,
    caller: CallerDep,
    name: str,
    tail: Annotated[int | None, Query(ge=0, le=100_000)] = None,
    since: AwareDatetime | None = None,
    follow: bool = False,
    replica: Annotated[int, Query(ge=0)] = 0,
) -> PageOf[LogLine] | StreamingResponse:
    """Return the last `tail` lines of server and worker host (1000 unless `since` is given), oldest first, and none
    before `since`. With `follow`, stream server-sent events, over restarts, until the backend is removed. `replica` is
    the number of the replica whose lines they are.
    """
    name = (await run_sync(controller.backends.find_replica, name, replica)).name
    if tail is None and since is None:
        tail = _LAST_LINES
    if follow:
        launches = streams.Launches(controller.engine, controller.backends, name)
        first = await run_sync(launches.find_next)
        lines = streams.stream_backend_log(controller.logs, launches, first, tail, since)
        return streams.create_response(lines, caller.is_valid)
    record = await run_sync(controller.backends.get_launch_record, name)
    return PageOf(await run_sync(streams.read_lines, controller.engine, record, tail, since))


@router.get(
    "/{name}/metrics",
    response_class=Response,
    responses=METRICS_TEXT,
    dependencies=[needs_for_backend("metrics", "venv:{venv}")],
)
def get_backend_metrics(controller: ControllerDep, name: str, replica: Annotated[int, Query(ge=0)] = 0) -> Response:
    """Read the backend's own metrics from it, or those of a further replica."""
    row = controller.backends.find_replica(name, replica)
    record = controller.backends.get_launch_record(row.name)
    code, body = probes.fetch(record, "/metrics", controller.backends.tokens.derive_for_metrics(row))
    if code != status.HTTP_200_OK:
        raise Unavailable(f'the backend "{name}" answered the request for its metrics with {code}')
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")
