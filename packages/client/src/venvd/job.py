"""The whole job in one call: a Python version and requirements in, a backend out, and nothing left at the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from venvd_contract import resources
from venvd_contract.resources import BackendLimits, BackendSpec, VenvSpec

from venvd import launch
from venvd.controller import flows
from venvd.controller.client import Controller
from venvd.controller.client_async import AsyncController
from venvd.controller.flows import OnEvent, quiet
from venvd.errors import NoController, NotFound, Unavailable
from venvd.home import home
from venvd.session import Backend
from venvd.session_async import AsyncBackend


@dataclass
class Job:
    """What is asked for; the fields of `backend`."""

    spec: VenvSpec
    venv: str | None
    type: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    limits: BackendLimits | None = None

    def backend(self, venv: str) -> BackendSpec:
        return flows_spec(self, venv)


def flows_spec(job: Job, venv: str) -> BackendSpec:
    given = {name: value for name, value in job.fields.items() if value is not None}
    return BackendSpec(type=flows.check_supported(job.type), venv=venv, limits=job.limits or BackendLimits(), **given)


def _job(
    requirements: Sequence[str],
    python: str | None,
    venv: str | None,
    type: str,  # noqa: A002 - the contract's word
    apt_packages: Sequence[str],
    preload: Sequence[str],
    network: bool | None,
    env: Mapping[str, str] | None,
    limits: BackendLimits | None,
    fields: Mapping[str, Any],
) -> Job:
    flows.check_supported(type)
    spec = VenvSpec(
        python=python, requirements=list(requirements), aptPackages=list(apt_packages), preload=list(preload)
    )
    return Job(spec, venv, type, {**fields, "network": network, "env": dict(env) if env else None}, limits)


@contextlib.contextmanager
def controller(url: str | None = None, token: str | None = None, *, on_start: Any = None) -> Iterator[Controller]:
    """The controller that the environment names and that answers, else one of our own while the block runs.

    Raises:
        NoController: a controller is named and does not answer, or none is and its program is not installed.
    """
    try:
        found = Controller(url, token)
    except NoController:
        found = None
    if found is not None:
        with found:
            if found.alive():
                yield found
                return
        if url is not None or _named():
            raise NoController(f"no controller answers at {found.url}: {launch.HOW_TO_START}")
    own = _start_own()
    try:
        with Controller(own.url, own.token) as started:
            yield started
    finally:
        own.stop()
