"""`/v1/backends`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from venvd_contract.errors import NotFound, Unavailable
from venvd_contract.resources import Backend, BackendSpec, BackendStart, Event, Page
from venvd_controller import probes
from venvd_controller.program import Program
from venvd_controller.routes.context import Here, Paging, event_stream, page

router = APIRouter(prefix="/v1/backends", tags=["backends"])
_REMOVAL = 30.0
"""Seconds that a DELETE waits for the backend to be gone."""


@router.get("")
def list_backends(here: Here, paging: Paging) -> Page:
    return page(here.backends.all(), "name", paging)


@router.post("", status_code=status.HTTP_202_ACCEPTED)
def start_backend(here: Here, spec: BackendSpec) -> BackendStart:
    return BackendStart(*here.backends.start(spec))


@router.get("/{name}")
def get_backend(here: Here, name: str) -> Backend:
    return here.backends.get(name)


@router.delete("/{name}")
def delete_backend(here: Here, name: str) -> Response:
    """Stop and remove: 204 once it is gone, 202 where that takes longer than half a minute."""
    here.backends.unwant(name)
    end = time.monotonic() + _REMOVAL
    while time.monotonic() < end:
        here.reconciler.wake()
        try:
            here.backends.row(name)
        except NotFound:
            return Response(status_code=status.HTTP_204_NO_CONTENT)
        time.sleep(0.05)
    return Response(status_code=status.HTTP_202_ACCEPTED)


@router.post("/{name}/restart", status_code=status.HTTP_202_ACCEPTED)
def restart_backend(here: Here, name: str) -> BackendStart:
    return BackendStart(*here.backends.restart(name))


@router.get("/{name}/logs", response_model=Page)
def get_logs(
    here: Here, name: str, tail: Annotated[int | None, Query(ge=0, le=100_000)] = 1000, follow: bool = False
) -> object:
    """The last lines of both parts, oldest first; with `follow` as server-sent events until the backend ends."""
    if follow:
        here.backends.handle(name)
        return event_stream(_followed(here, name, tail))
    return Page(list(here.engine.logs(here.backends.handle(name), tail, follow=False)))


def _followed(here: Program, name: str, tail: int | None) -> Iterator[Event | None]:
    lines = here.engine.logs(here.backends.handle(name), tail, follow=True)
    number = 0
    for number, line in enumerate(lines, 1):
        yield Event(number, "log", asdict(line))
    yield Event(number + 1, "done", None)


@router.get("/{name}/metrics", response_class=Response)
def get_metrics(here: Here, name: str) -> Response:
    """The backend's own metrics, read from it now."""
    row, handle = here.backends.row(name), here.backends.handle(name)
    code, body = probes.fetch(handle.probe_url, "/metrics", here.backends.metrics_token(row))
    if code != status.HTTP_200_OK:
        raise Unavailable(f'the backend "{name}" answered {code} when asked for its metrics')
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")
