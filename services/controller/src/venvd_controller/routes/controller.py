"""The controller itself: health, metrics, status, settings, discovery, leftovers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

from venvd_contract.access import ADMIN, METRICS, OPERATOR
from venvd_contract.errors import Unavailable
from venvd_contract.resources import Backend, ConfigReport, ControllerStatus, LeftoverList
from venvd_controller import metrics
from venvd_controller.routes.access import ANY, needs
from venvd_controller.routes.dependencies import METRICS_TEXT, CallerDep, ControllerDep

router = APIRouter(tags=["controller"])
_MAX_LAG = 60.0
"""The controller is not ready if the last complete turn of the reconcile loop is this many seconds ago."""


@dataclass
class Alive:
    status: str = "ok"


@dataclass
class CallerInfo:
    name: str
    """What logs call the token of the request."""
    scope: list[str]


@dataclass
class TargetGroup:
    targets: list[str]
    labels: dict[str, str]


@router.get("/livez")
@router.get("/health", include_in_schema=False)
def get_liveness() -> Alive:
    """Tell that the controller runs."""
    return Alive()


@router.get("/readyz")
def get_readiness(controller: ControllerDep) -> Alive:
    """The controller is ready while the engine answers and the reconcile loop turns."""
    if controller.reconciler.engine_error:
        raise Unavailable(f"the engine does not answer: {controller.reconciler.engine_error}")
    if not controller.reconciler.last_turn:
        raise Unavailable("the reconcile loop has not finished its first turn")
    lag = time.time() - controller.reconciler.last_turn
    if lag > _MAX_LAG:
        raise Unavailable(f"the reconcile loop has not turned for {lag:.0f} s")
    return Alive()


@router.get("/metrics", response_class=Response, responses=METRICS_TEXT, dependencies=[needs(METRICS)])
def get_metrics(controller: ControllerDep) -> Response:
    """Return the controller's metrics in the text format of Prometheus."""
    return Response(metrics.render(controller.registry), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/caller", dependencies=[needs(*ANY, METRICS)])
def get_caller(caller: CallerDep) -> CallerInfo:
    """Return whose token the request carries, and what it may do."""
    return CallerInfo(caller.name, list(caller.scopes))


@router.get("/v1/status", dependencies=[needs(OPERATOR)])
def get_status(controller: ControllerDep) -> ControllerStatus:
    """Return the version, the engine, and how many venvs, backends and operations there are."""
    return controller.get_status()


@router.get("/v1/config", dependencies=[needs(ADMIN)])
def get_config(controller: ControllerDep) -> ConfigReport:
    """List every setting with its source, and what is unsafe or missing."""
    return controller.get_config()


@router.get("/v1/leftovers", dependencies=[needs(OPERATOR)])
def list_leftovers(controller: ControllerDep, everything: bool = False) -> LeftoverList:
    """List what this home keeps and nothing uses: images, versions of the worker archive, tools of builds. With
    `everything`, also list what the next build or start would use and would otherwise make again, such as the cache.
    """
    return LeftoverList(controller.pruner.list_leftovers(everything=everything))


@router.delete("/v1/leftovers", dependencies=[needs(OPERATOR)])
def prune(controller: ControllerDep, everything: bool = False) -> LeftoverList:
    """Remove what `GET` lists, and return what was removed. Other homes are not affected."""
    return LeftoverList(controller.pruner.prune(everything=everything))


@router.get("/v1/sd/prometheus", dependencies=[needs(METRICS)])
def discover(controller: ControllerDep, request: Request) -> list[TargetGroup]:
    """List every backend for `http_sd_configs`; scrapes pass through the controller, so one token is enough."""
    address = request.headers.get("host") or urlsplit(str(request.base_url)).netloc
    return [
        TargetGroup(
            [address],
            {
                "instance": backend.name,  # the address is the controller's, equal for all
                "__metrics_path__": f"/v1/backends/{backend.name}/metrics",
                "backend": backend.name,
                "venv": backend.venv,
                "type": backend.type,
                "engine": backend.engine,
                **labels,
            },
        )
        for backend in controller.backends.list_all()
        for labels in _label_replicas(backend)
    ]


def _label_replicas(backend: Backend) -> list[dict[str, str]]:
    """Return the labels that differ between the targets of a backend: one set for each replica that has an address."""
    if not backend.replicas:
        return [] if backend.url is None else [{}]
    return [
        {
            "instance": f"{backend.name}-{each.number}",
            "replica": str(each.number),
            "__param_replica": str(each.number),
        }
        for each in backend.replicas
        if each.url is not None
    ]
