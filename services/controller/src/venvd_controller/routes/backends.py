"""`/v1/backends`."""

from __future__ import annotations

import time
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Response, status
from fastapi.responses import StreamingResponse

from venvd_contract.errors import NotFound, Unavailable
from venvd_contract.resources import Backend, BackendSpec, BackendStart, LogLine
from venvd_controller import probes, streams
from venvd_controller.routes.context import Here, Json, PageOf, Part

router = APIRouter(prefix="/v1/backends", tags=["backends"])
_REMOVAL = 30.0
"""Seconds that a DELETE waits for the backend to be gone."""


@router.get("")
def list_backends(here: Here, part: Part) -> PageOf[Backend]:
    return part.page(here.backends.all(part.after, part.and_one), "name")


@router.post("", status_code=status.HTTP_202_ACCEPTED)
def start_backend(here: Here, spec: Json[BackendSpec]) -> BackendStart:
    """A backend whose first start fails stays, `failed`, with its error, until it is deleted, restarted, or started
    again under the same name.
    """
    return BackendStart(*here.backends.start(spec))


@router.get("/{name}")
def get_backend(here: Here, name: str) -> Backend:
    return here.backends.get(name)


@router.delete("/{name}", status_code=status.HTTP_204_NO_CONTENT)
def delete_backend(here: Here, name: str, wait: Annotated[float, Query(ge=0, le=_REMOVAL)] = _REMOVAL) -> Response:
    """Stop and remove: 204 once it is gone, 202 where that takes longer than `wait` seconds and goes on."""
    here.backends.unwant(name)
    here.reconciler.wake()
    end = time.monotonic() + wait
    while True:
        try:
            here.backends.row(name)
        except NotFound:
            return Response(status_code=status.HTTP_204_NO_CONTENT)
        if time.monotonic() >= end:
            return Response(status_code=status.HTTP_202_ACCEPTED)
        time.sleep(0.05)


@router.post("/{name}/restart", status_code=status.HTTP_202_ACCEPTED)
def restart_backend(here: Here, name: str) -> BackendStart:
    return BackendStart(*here.backends.restart(name))


@router.get("/{name}/logs", response_model=PageOf[LogLine])
async def get_logs(
    here: Here, name: str, tail: Annotated[int | None, Query(ge=0, le=100_000)] = 1000, follow: bool = False
) -> PageOf[LogLine] | StreamingResponse:
    """The last lines of both parts, oldest first; with `follow` as server-sent events, over restarts, until the backend
    is removed.
    """
    if follow:
        launches = streams.Launches(here.engine, here.backends, name)
        first = await run_sync(launches.next)
        return streams.response(streams.backend_log(here.logs, launches, first, tail))
    record = await run_sync(here.backends.record, name)
    return PageOf(await run_sync(lambda: list(here.engine.logs(record, tail, follow=False))))


@router.get("/{name}/metrics", response_class=Response)
def get_metrics(here: Here, name: str) -> Response:
    """The backend's own metrics, read from it now."""
    row, record = here.backends.row(name), here.backends.record(name)
    code, body = probes.fetch(record.probe_url, "/metrics", here.backends.metrics_token(row))
    if code != status.HTTP_200_OK:
        raise Unavailable(f'the backend "{name}" answered {code} when asked for its metrics')
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")
