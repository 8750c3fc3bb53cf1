"""`/v1/venvs` and `/v1/providers`."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Response, status

from venvd_contract.errors import NotFound
from venvd_contract.resources import Package, Venv, VenvChange, VenvSpec
from venvd_controller.routes.context import Here, Json, PageOf, Part
from venvd_controller.specs import provider_name

router = APIRouter(prefix="/v1", tags=["venvs"])


@dataclass
class Lock:
    lock: str
    """A hash-pinned requirements file without index addresses."""


@router.get("/venvs")
def list_venvs(here: Here, part: Part) -> PageOf[Venv]:
    return part.page(here.venvs.all(part.after, part.and_one), "name")


@router.put("/venvs/{name}")
def put_venv(here: Here, name: str, spec: Json[VenvSpec], response: Response) -> VenvChange:
    """Create or change a venv; with an operation where something is to be built."""
    return _changed(here, name, spec, response)


def _changed(here: Here, name: str, spec: VenvSpec, response: Response) -> VenvChange:
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
def list_packages(here: Here, name: str, part: Part) -> PageOf[Package]:
    found = sorted(here.venvs.packages(name), key=lambda package: package.name)
    return part.page([package for package in found if package.name > (part.after or "")], "name")


@router.get("/venvs/{name}/lock")
def get_lock(here: Here, name: str) -> Lock:
    return Lock(here.venvs.lock(name))


@router.put("/providers/{provider}/venv")
def ensure_provider(
    here: Here, provider: str, response: Response, model: str | None = None, spec: Json[VenvSpec | None] = None
) -> VenvChange:
    """The venv of a provider: made where it is absent, from the body if there is one, and never changed here."""
    name = provider_name(provider, model)
    try:
        wanted = here.venvs.get(name).spec
    except NotFound:
        wanted = spec or VenvSpec()
        wanted.labels = {**wanted.labels, "provider": provider, **({"model": model} if model else {})}
    return _changed(here, name, wanted, response)
