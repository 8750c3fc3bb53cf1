"""Turns every error that leaves the controller into problem details (RFC 9457)."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from venvd_contract.errors import Internal, InvalidRequest, VenvdError
from venvd_http.problems import Refusal, unknown_path, wrong_method

log = logging.getLogger("venvd.controller")


def install(app: FastAPI) -> None:
    """Let `app` answer every exception with problem details."""
    for kind, refusal in (
        (VenvdError, _from_contract),
        (RequestValidationError, _from_validation),
        (HTTPException, _from_status),
        (Exception, _from_defect),
    ):
        app.add_exception_handler(kind, refusal)  # type: ignore[arg-type]  # any ASGI application will do


async def _from_contract(request: Request, error: Exception) -> Refusal:
    assert isinstance(error, VenvdError)
    return _refuse(request, error)


def _refuse(request: Request, error: VenvdError, status: int | None = None) -> Refusal:
    """Answer with an error, and note its code for the log and the audit log."""
    request.scope.get("venvd", {})["code"] = error.code
    return Refusal(error, status)


async def _from_validation(request: Request, error: Exception) -> Refusal:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _refuse(
            request, InvalidRequest(f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}")
        )
    place = ".".join(str(part) for part in first["loc"] if part not in {"body", "query", "path", "header"})
    message = first["msg"].removeprefix("Value error, ")
    return _refuse(request, InvalidRequest(f'the field "{place}": {message}' if place else f"the body: {message}"))


async def _from_status(request: Request, error: Exception) -> Refusal:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return unknown_path(request.url.path)
    if error.status_code == 405:
        return wrong_method(request.method, request.url.path, (error.headers or {}).get("Allow", "other methods"))
    if error.status_code == 400:
        return _refuse(request, InvalidRequest("the body is not JSON, or nested too deeply"))
    return _refuse(request, InvalidRequest(str(error.detail)), error.status_code)


async def _from_defect(request: Request, error: Exception) -> Refusal:
    log.error("a defect at %s %s", request.method, request.url.path, exc_info=error)
    return _refuse(request, Internal("a defect of the controller; its log has the details"))
