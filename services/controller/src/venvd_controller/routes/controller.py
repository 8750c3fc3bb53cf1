"""The controller itself: health, numbers, status, settings, discovery."""

from __future__ import annotations

import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

from venvd_contract.errors import Unavailable
from venvd_contract.resources import ConfigReport, ControllerStatus, LeftoverList
from venvd_controller import metrics
from venvd_controller.routes.context import Here

router = APIRouter(tags=["controller"])
_MOST_LAG = 60.0
"""Seconds without a turn of the reconcile loop after which the controller is not ready."""


@dataclass
class Alive:
    status: str = "ok"


@dataclass
class TargetGroup:
    targets: list[str]
    labels: dict[str, str]


@router.get("/livez")
@router.get("/health", include_in_schema=False)
def alive() -> Alive:
    return Alive()


@router.get("/readyz")
def ready(here: Here) -> Alive:
    """Ready while the engine answers and the reconcile loop turns."""
    if here.reconciler.engine_error:
        raise Unavailable(f"the engine does not answer: {here.reconciler.engine_error}")
    if not here.reconciler.last_turn:
        raise Unavailable("the first turn of the reconcile loop is under way")
    lag = time.time() - here.reconciler.last_turn
    if lag > _MOST_LAG:
        raise Unavailable(f"the reconcile loop has not turned for {lag:.0f} s")
    return Alive()


@router.get("/metrics", response_class=Response)
def get_metrics(here: Here) -> Response:
    return Response(metrics.text(here.registry), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/status")
def get_status(here: Here) -> ControllerStatus:
    return here.status()


@router.get("/v1/config")
def get_config(here: Here) -> ConfigReport:
    """Every setting, where it came from, what is unsafe or missing."""
    return here.config()


@router.get("/v1/leftovers")
def list_leftovers(here: Here, everything: bool = False) -> LeftoverList:
    """What this home keeps and nothing uses: images, versions of the worker archive, tools of builds. With `everything`
    also what the next build or start would use, and make again: the cache of builds among it.
    """
    return LeftoverList(here.pruner.leftovers(everything=everything))


@router.delete("/v1/leftovers")
def prune(here: Here, everything: bool = False) -> LeftoverList:
    """Remove what `GET` lists; answers with what was removed. Nothing of another home is touched."""
    return LeftoverList(here.pruner.prune(everything=everything))


@router.get("/v1/sd/prometheus")
def discover(here: Here, request: Request) -> list[TargetGroup]:
    """Every backend for `http_sd_configs`: scraped through the controller, so that one token is enough."""
    address = request.headers.get("host") or urlsplit(str(request.base_url)).netloc
    return [
        TargetGroup(
            [address],
            {
                "instance": item.name,  # they all have the controller's address
                "__metrics_path__": f"/v1/backends/{item.name}/metrics",
                "backend": item.name,
                "venv": item.venv,
                "type": item.type,
                "engine": item.engine,
            },
        )
        for item in here.backends.all()
        if item.url is not None
    ]
