"""`/v1/operations`."""

from __future__ import annotations

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, status
from fastapi.responses import StreamingResponse

from venvd_contract.errors import InvalidRequest
from venvd_contract.resources import OperationInfo
from venvd_controller import streams
from venvd_controller.routes.access import ANY, needs, needs_for_operation
from venvd_controller.routes.dependencies import Answers, CallerDep, ControllerDep, PageOf, PagingDep

router = APIRouter(prefix="/v1/operations", tags=["operations"])
_needs_venv = needs_for_operation("venv:{venv}")
_EVENTS: Answers = {200: {"description": "Events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}}


@router.get("", dependencies=[needs(*ANY)])
def list_operations(
    controller: ControllerDep,
    caller: CallerDep,
    paging: PagingDep,
    kind: str | None = None,
    target: str | None = None,
    state: str | None = None,
) -> PageOf[OperationInfo]:
    """List operations, newest first."""
    operations = controller.operations.list_all(
        paging.after, paging.fetch_limit, caller.visible, kind=kind, target=target, state=state
    )
    return paging.create_page(operations, "id")


@router.get("/{key}", dependencies=[_needs_venv])
def get_operation(controller: ControllerDep, key: str) -> OperationInfo:
    """Return an operation: its state, its phases, and its error if it failed."""
    return controller.operations.get(key)


@router.get("/{key}/events", response_class=StreamingResponse, responses=_EVENTS, dependencies=[_needs_venv])
async def follow_operation(
    controller: ControllerDep, caller: CallerDep, key: str, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """Stream phases and log as server-sent events, from the beginning or after `Last-Event-ID`, until `done`."""
    last = last_event_id or "0"
    if not (last.isascii() and last.isdecimal() and len(last) < 10):
        raise InvalidRequest("Last-Event-ID takes the number of the last event")
    await run_sync(controller.operations.get, key)
    return streams.create_response(streams.stream_operation(controller.operations, key, int(last)), caller.is_valid)


@router.delete("/{key}", status_code=status.HTTP_202_ACCEPTED, dependencies=[_needs_venv])
def cancel_operation(controller: ControllerDep, key: str) -> OperationInfo:
    """Cancel an operation that waits or runs."""
    return controller.operations.cancel(key)
