"""`/v1/backends`."""

from __future__ import annotations

import time
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Response, status
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime

from venvd_contract.errors import NotFound, Unavailable
from venvd_contract.resources import Backend, BackendSpec, BackendStart, LogLine
from venvd_controller import probes, streams
from venvd_controller.routes.dependencies import ControllerDep, JsonBody, PageOf, PagingDep

router = APIRouter(prefix="/v1/backends", tags=["backends"])
_MAX_REMOVAL_WAIT = 30.0
_LAST_LINES = 1000


@router.get("")
def list_backends(controller: ControllerDep, paging: PagingDep) -> PageOf[Backend]:
    return paging.create_page(controller.backends.list_all(paging.after, paging.fetch_limit), "name")


@router.post("", status_code=status.HTTP_202_ACCEPTED)
def start_backend(controller: ControllerDep, spec: JsonBody[BackendSpec]) -> BackendStart:
    """Start a backend. If its first start fails, it stays `failed` with its error until a client deletes it, restarts
    it, or starts another backend of the same name.
    """
    return BackendStart(*controller.backends.start(spec))


@router.get("/{name}")
def get_backend(controller: ControllerDep, name: str) -> Backend:
    return controller.backends.get(name)


@router.delete("/{name}", status_code=status.HTTP_204_NO_CONTENT)
def delete_backend(
    controller: ControllerDep, name: str, wait: Annotated[float, Query(ge=0, le=_MAX_REMOVAL_WAIT)] = _MAX_REMOVAL_WAIT
) -> Response:
    """Stop and remove a backend: 204 when it is gone, 202 if that takes longer than `wait` seconds and goes on."""
    controller.backends.request_removal(name)
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


@router.post("/{name}/restart", status_code=status.HTTP_202_ACCEPTED)
def restart_backend(controller: ControllerDep, name: str) -> BackendStart:
    return BackendStart(*controller.backends.restart(name))


@router.get("/{name}/logs", response_model=PageOf[LogLine])
async def get_logs(
    controller: ControllerDep,
    name: str,
    tail: Annotated[int | None, Query(ge=0, le=100_000)] = None,
    since: AwareDatetime | None = None,
    follow: bool = False,
) -> PageOf[LogLine] | StreamingResponse:
    """Return the last `tail` lines of server and worker host (1000 unless `since` is given), oldest first, and none
    before `since`. With `follow`, stream server-sent events, over restarts, until the backend is removed.
    """
    if tail is None and since is None:
        tail = _LAST_LINES
    if follow:
        launches = streams.Launches(controller.engine, controller.backends, name)
        first = await run_sync(launches.find_next)
        return streams.create_response(streams.stream_backend_log(controller.logs, launches, first, tail, since))
    record = await run_sync(controller.backends.get_launch_record, name)
    return PageOf(await run_sync(streams.read_lines, controller.engine, record, tail, since))


@router.get("/{name}/metrics", response_class=Response)
def get_metrics(controller: ControllerDep, name: str) -> Response:
    """Read the backend's own metrics from it."""
    row, record = controller.backends.get_row(name), controller.backends.get_launch_record(name)
    code, body = probes.fetch(record.probe_url, "/metrics", controller.backends.derive_metrics_token(row))
    if code != status.HTTP_200_OK:
        raise Unavailable(f'the backend "{name}" answered the request for its metrics with {code}')
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")
