"""`/v1/operations`."""

from __future__ import annotations

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, status
from fastapi.responses import StreamingResponse

from venvd_contract.errors import InvalidRequest
from venvd_contract.resources import OperationInfo
from venvd_controller import streams
from venvd_controller.routes.context import Here, PageOf, Part

router = APIRouter(prefix="/v1/operations", tags=["operations"])


@router.get("")
def list_operations(
    here: Here, part: Part, kind: str | None = None, target: str | None = None, state: str | None = None
) -> PageOf[OperationInfo]:
    """The newest first."""
    return part.page(here.operations.all(part.after, part.and_one, kind=kind, target=target, state=state), "id")


@router.get("/{key}")
def get_operation(here: Here, key: str) -> OperationInfo:
    return here.operations.get(key)


@router.get("/{key}/events", response_class=StreamingResponse)
async def follow_operation(
    here: Here, key: str, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """Phases and log as server-sent events, from the beginning or from `Last-Event-ID` on, until `done`."""
    last = last_event_id or "0"
    if not (last.isascii() and last.isdecimal() and len(last) < 10):
        raise InvalidRequest("Last-Event-ID: the number of the last event is needed")
    await run_sync(here.operations.get, key)
    return streams.response(streams.operation(here.operations, key, int(last)))


@router.delete("/{key}", status_code=status.HTTP_202_ACCEPTED)
def cancel_operation(here: Here, key: str) -> OperationInfo:
    return here.operations.cancel(key)
