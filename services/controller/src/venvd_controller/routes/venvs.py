"""`/v1/venvs` and `/v1/providers`."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Response, status

from venvd_contract.errors import NotFound
from venvd_contract.resources import Page, Venv, VenvChange, VenvSpec
from venvd_controller.routes.context import Here, Paging, page
from venvd_controller.venvs import provider_name

router = APIRouter(prefix="/v1", tags=["venvs"])


@dataclass
class Lock:
    lock: str
    """A hash-pinned requirements file without index addresses."""


@router.get("/venvs")
def list_venvs(here: Here, paging: Paging) -> Page:
    return page(here.venvs.all(), "name", paging)


@router.put("/venvs/{name}")
def put_venv(here: Here, name: str, spec: VenvSpec, response: Response) -> VenvChange:
    venv, operation = here.venvs.put(name, spec)
    response.status_code = status.HTTP_202_ACCEPTED if operation else status.HTTP_200_OK
    return VenvChange(venv, operation)


@router.get("/venvs/{name}")
def get_venv(here: Here, name: str) -> Venv:
    return here.venvs.get(name)


@router.delete("/venvs/{name}", status_code=status.HTTP_204_NO_CONTENT)
def delete_venv(here: Here, name: str) -> None:
    here.venvs.delete(name)


@router.get("/venvs/{name}/packages")
def list_packages(here: Here, name: str, paging: Paging) -> Page:
    return page(here.venvs.packages(name), "name", paging)


@router.get("/venvs/{name}/lock")
def get_lock(here: Here, name: str) -> Lock:
    return Lock(here.venvs.lock(name))


@router.put("/providers/{provider}/venv")
def ensure_provider(here: Here, provider: str, response: Response, model: str | None = None) -> VenvChange:
    """The venv of a provider: made where it is absent, and never changed here."""
    name = provider_name(provider, model)
    try:
        return VenvChange(here.venvs.get(name), None)
    except NotFound:
        labels = {"provider": provider, **({"model": model} if model else {})}
        venv, operation = here.venvs.put(name, VenvSpec(labels=labels))
        response.status_code = status.HTTP_202_ACCEPTED
        return VenvChange(venv, operation)
