"""Calls of HTTP backends through the controller, for the console of the web page."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Request, Response

from venvd_controller.forwarding import ForwardedCall
from venvd_controller.routes.access import needs_for_backend
from venvd_controller.routes.dependencies import Answers, CallerDep, ChangesDep, ControllerDep

router = APIRouter(prefix="/v1/backends/{name}", tags=["calls"])
_needs_use = needs_for_backend("use:{name}", "venv:{venv}")
SessionId = Annotated[str, Path(min_length=1, max_length=200)]
_OBJECT: dict[str, Any] = {"schema": {"type": "object"}}
_ANSWER: Answers = {200: {"description": "The answer of the backend", "content": {"application/json": _OBJECT}}}
_OUTPUT: Answers = {
    200: {
        "description": "The answer of the backend",
        "content": {"application/json": _OBJECT, "text/event-stream": {"schema": {"type": "string"}}},
    }
}


def _describe_body(**example: object) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {**_OBJECT, "example": example}}}}


_CODE = _describe_body(code="print(6 * 7)")
_SESSION = _describe_body(idleTimeout=600)


async def _pass_on(
    request: Request, controller: ControllerDep, caller: CallerDep, name: str, path: str
) -> ForwardedCall:
    return ForwardedCall(controller.forwarder, caller, name, path, await request.body())


@router.post("/exec", response_class=Response, responses=_OUTPUT, openapi_extra=_CODE, dependencies=[_needs_use])
async def execute(
    request: Request, controller: ControllerDep, caller: CallerDep, changes: ChangesDep, name: str
) -> ForwardedCall:
    """Execute code, as `POST /api/exec` of the backend does, with its headers and its stream of events. The log of the
    backend has the call, and not the audit log.
    """
    changes.is_call = True
    return await _pass_on(request, controller, caller, name, "/api/exec")


@router.get("/sessions", response_class=Response, responses=_ANSWER, dependencies=[_needs_use])
async def list_sessions(request: Request, controller: ControllerDep, caller: CallerDep, name: str) -> ForwardedCall:
    """List the sessions of the backend."""
    return await _pass_on(request, controller, caller, name, "/v1/sessions")


@router.post("/sessions", response_class=Response, responses=_ANSWER, openapi_extra=_SESSION, dependencies=[_needs_use])
async def create_session(request: Request, controller: ControllerDep, caller: CallerDep, name: str) -> ForwardedCall:
    """Create a session of the backend."""
    return await _pass_on(request, controller, caller, name, "/v1/sessions")


@router.delete("/sessions/{session}", response_class=Response, responses=_ANSWER, dependencies=[_needs_use])
async def delete_session(
    request: Request, controller: ControllerDep, caller: CallerDep, name: str, session: SessionId
) -> ForwardedCall:
    """End a session of the backend."""
    return await _pass_on(request, controller, caller, name, _create_path(session))


@router.post("/sessions/{session}/reset", response_class=Response, responses=_ANSWER, dependencies=[_needs_use])
async def reset_session(
    request: Request, controller: ControllerDep, caller: CallerDep, name: str, session: SessionId
) -> ForwardedCall:
    """Start a session of the backend afresh."""
    return await _pass_on(request, controller, caller, name, f"{_create_path(session)}/reset")


@router.post("/sessions/{session}/interrupt", response_class=Response, responses=_ANSWER, dependencies=[_needs_use])
async def interrupt_session(
    request: Request, controller: ControllerDep, caller: CallerDep, changes: ChangesDep, name: str, session: SessionId
) -> ForwardedCall:
    """Interrupt the call that runs in a session of the backend."""
    changes.is_call = True
    return await _pass_on(request, controller, caller, name, f"{_create_path(session)}/interrupt")


def _create_path(session: str) -> str:
    return f"/v1/sessions/{quote(session, safe='')}"
