"""`/v1/venvs` and `/v1/providers`."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Response, status

from venvd_contract.resources import Package, Venv, VenvChange, VenvSpec
from venvd_controller.routes.dependencies import ControllerDep, JsonBody, PageOf, PagingDep

router = APIRouter(prefix="/v1", tags=["venvs"])


@dataclass
class Lock:
    lock: str
    """A hash-pinned requirements file without index addresses."""


@router.get("/venvs")
def list_venvs(controller: ControllerDep, paging: PagingDep) -> PageOf[Venv]:
    return paging.create_page(controller.venvs.list_all(paging.after, paging.fetch_limit), "name")


@router.put("/venvs/{name}")
def put_venv(controller: ControllerDep, name: str, spec: JsonBody[VenvSpec], response: Response) -> VenvChange:
    """Create or change a venv; `operation` is its build, null if there is nothing to build."""
    venv, operation = controller.venvs.put(name, spec)
    response.status_code = status.HTTP_202_ACCEPTED if operation else status.HTTP_200_OK
    return VenvChange(venv, operation)


@router.get("/venvs/{name}")
def get_venv(controller: ControllerDep, name: str) -> Venv:
    return controller.venvs.get(name)


@router.delete("/venvs/{name}", status_code=status.HTTP_204_NO_CONTENT)
def delete_venv(controller: ControllerDep, name: str) -> None:
    controller.venvs.delete(name)


@router.get("/venvs/{name}/packages")
def list_packages(controller: ControllerDep, name: str, paging: PagingDep) -> PageOf[Package]:
    packages = sorted(controller.venvs.list_packages(name), key=lambda package: package.name)
    return paging.create_page([package for package in packages if package.name > (paging.after or "")], "name")


@router.get("/venvs/{name}/lock")
def get_lock(controller: ControllerDep, name: str) -> Lock:
    return Lock(controller.venvs.get_lock(name))


@router.put("/providers/{provider}/venv")
def ensure_provider(
    controller: ControllerDep,
    provider: str,
    response: Response,
    model: str | None = None,
    spec: JsonBody[VenvSpec | None] = None,
) -> VenvChange:
    """Create the venv of a provider from the body. To an existing venv, add what the body asks for: a requirement
    replaces those for the same package, and a field that is absent changes nothing.
    """
    venv, operation = controller.providers.ensure(provider, model, spec or VenvSpec())
    response.status_code = status.HTTP_202_ACCEPTED if operation else status.HTTP_200_OK
    return VenvChange(venv, operation)
