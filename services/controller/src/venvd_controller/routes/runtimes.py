"""`/v1/runtimes`."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Response, status

from venvd_contract.resources import OperationInfo, Page, Runtime
from venvd_controller.routes.context import Here, Paging, page

router = APIRouter(prefix="/v1/runtimes", tags=["runtimes"])


@dataclass
class RuntimeChange:
    runtime: Runtime
    operation: OperationInfo | None


@dataclass
class Default:
    version: str


@router.get("")
def list_runtimes(here: Here, paging: Paging) -> Page:
    return page(here.runtimes.all(), "version", paging)


@router.put("/default")
def set_default(here: Here, body: Default) -> Runtime:
    return here.runtimes.set_default(body.version)


@router.get("/{version}")
def get_runtime(here: Here, version: str) -> Runtime:
    return here.runtimes.get(version)


@router.put("/{version}")
def init_runtime(here: Here, version: str, response: Response) -> RuntimeChange:
    runtime, operation = here.runtimes.put(version)
    response.status_code = status.HTTP_202_ACCEPTED if operation else status.HTTP_200_OK
    return RuntimeChange(runtime, operation)


@router.delete("/{version}", status_code=status.HTTP_204_NO_CONTENT)
def delete_runtime(here: Here, version: str) -> None:
    here.runtimes.delete(version)
