"""`/v1/runtimes`."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Response, status

from venvd_contract.resources import OperationInfo, Runtime
from venvd_controller.routes.context import Here, Json, PageOf, Part

router = APIRouter(prefix="/v1/runtimes", tags=["runtimes"])


@dataclass
class RuntimeChange:
    runtime: Runtime
    operation: OperationInfo | None
    """Null where there was nothing to do."""


@dataclass
class Default:
    version: str


@router.get("")
def list_runtimes(here: Here, part: Part) -> PageOf[Runtime]:
    return part.page(here.runtimes.all(part.after, part.and_one), "version")


@router.put("/default")
def set_default(here: Here, body: Json[Default]) -> Runtime:
    """Choose the runtime of venvs that name none; `operation` names its initialisation where that is needed."""
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
