"""`/v1/runtimes`."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Response, status

from venvd_contract.access import OPERATOR
from venvd_contract.resources import OperationInfo, Runtime
from venvd_controller.routes.access import ANY, needs
from venvd_controller.routes.dependencies import Answers, ControllerDep, JsonBody, PageOf, PagingDep

router = APIRouter(prefix="/v1/runtimes", tags=["runtimes"])


@dataclass
class RuntimeChange:
    runtime: Runtime
    operation: OperationInfo | None
    """Null if the runtime is ready."""


@dataclass
class Default:
    version: str


_BEGINS: Answers = {202: {"model": RuntimeChange, "description": "The initialisation has begun"}}


@router.get("", dependencies=[needs(*ANY)])
def list_runtimes(controller: ControllerDep, paging: PagingDep) -> PageOf[Runtime]:
    """List the runtimes: each is one pinned CPython."""
    return paging.create_page(controller.runtimes.list_all(paging.after, paging.fetch_limit), "version")


@router.put("/default", dependencies=[needs(OPERATOR)])
def set_default(controller: ControllerDep, body: JsonBody[Default]) -> Runtime:
    """Choose the runtime of venvs that name none. `operation` is its initialisation, if it is not ready."""
    return controller.runtimes.set_default(body.version)


@router.get("/{version}", dependencies=[needs(*ANY)])
def get_runtime(controller: ControllerDep, version: str) -> Runtime:
    """Return a runtime."""
    return controller.runtimes.get(version)


@router.put("/{version}", responses=_BEGINS, dependencies=[needs("venv:*")])
def init_runtime(controller: ControllerDep, version: str, response: Response) -> RuntimeChange:
    """Make a runtime ready, as the build of a venv of this version does too."""
    runtime, operation = controller.runtimes.put(version)
    response.status_code = status.HTTP_202_ACCEPTED if operation else status.HTTP_200_OK
    return RuntimeChange(runtime, operation)


@router.delete("/{version}", status_code=status.HTTP_204_NO_CONTENT, dependencies=[needs(OPERATOR)])
def delete_runtime(controller: ControllerDep, version: str) -> None:
    """Delete a runtime that no venv uses."""
    controller.runtimes.delete(version)
