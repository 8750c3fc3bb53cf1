"""`/v1/operations`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, status
from fastapi.responses import StreamingResponse

from venvd_contract.errors import InvalidRequest
from venvd_contract.resources import OperationInfo, Page
from venvd_controller.routes.context import Here, Paging, event_stream, page

router = APIRouter(prefix="/v1/operations", tags=["operations"])


@router.get("")
def list_operations(here: Here, paging: Paging) -> Page:
    return page(here.operations.all(), "id", paging)


@router.get("/{key}")
def get_operation(here: Here, key: str) -> OperationInfo:
    return here.operations.get(key)


@router.get("/{key}/events")
def follow_operation(here: Here, key: str, last_event_id: Annotated[str | None, Header()] = None) -> StreamingResponse:
    """Phases and log as server-sent events, from the beginning or from `Last-Event-ID` on, until `done`."""
    if last_event_id is not None and not last_event_id.isdecimal():
        raise InvalidRequest("Last-Event-ID: the number of the last event is needed")
    here.operations.get(key)
    return event_stream(here.operations.follow(key, int(last_event_id or 0)))


@router.delete("/{key}", status_code=status.HTTP_202_ACCEPTED)
def cancel_operation(here: Here, key: str) -> OperationInfo:
    return here.operations.cancel(key)
