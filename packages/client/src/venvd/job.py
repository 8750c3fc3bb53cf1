"""The whole job in one call: a Python version and requirements in, a backend out, and nothing left at the end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from venvd import launch
from venvd.controller import asks, flows
from venvd.controller.asks import Step
from venvd.controller.client import Controller
from venvd.controller.client_async import AsyncController
from venvd.controller.flows import OnEvent, quiet
from venvd.errors import NoController, NotFound, Unavailable
from venvd.flow import Flow
from venvd.home import HOW_TO_START, find_controller, home, named
from venvd.session import Backend
from venvd.session_async import AsyncBackend
from venvd_contract.resources import BackendLimits, BackendSpec, VenvSpec

_SOON = 15.0


class Options(TypedDict, total=False):
    """What `backend` takes beside the requirements.

    Attributes:
        python: a version such as `3.13`; absent is the controller's default, or the newest it can provide.
        venv: the name of a venv that exists, or for the one that the requirements make; absent makes up a stable one.
        type: `http` (default) or `pipe`.
        name: the backend's; absent makes up one.
        port: absent is a free one.
        apt_packages: Debian packages of the venv.
        preload: modules imported before the first session.
        network: whether user code may reach the network.
        env: environment variables of user code.
        limits: of the worker host.
        timeout: seconds for calls that name none.
        controller, token: of the controller; absent is the one that the environment or home names, else one of our own.
        on_event: called with each event of the operations on the way (`venvd_contract.resources.Event`).
    """

    python: str | None
    venv: str | None
    type: str
    name: str | None
    port: int | None
    apt_packages: Sequence[str]
    preload: Sequence[str]
    network: bool | None
    env: Mapping[str, str] | None
    limits: BackendLimits | None
    timeout: float | None
    controller: str | None
    token: str | None
    on_event: OnEvent


@dataclass(frozen=True)
class _Job:
    """The same, as what is asked of a controller."""

    spec: VenvSpec
    options: Options

    def backend(self, venv: str) -> BackendSpec:
        options = self.options
        fields: dict[str, Any] = {name: options.get(name) for name in ("port", "network", "env", "timeout")}
        fields["venv"] = venv
        fields["name"] = options.get("name") or f"{venv[:50]}-{secrets.token_hex(3)}"
        return asks.backend_spec(flows.check_supported(options.get("type", "http")), options.get("limits"), fields)

    def flow(self) -> Flow[Step, Any]:
        on_event = self.options.get("on_event", quiet)
        return flows.whole_job(self.options.get("venv"), self.spec, self.backend, on_event)


def _job(requirements: Sequence[str], options: Options) -> _Job:
    flows.check_supported(options.get("type", "http"))
    if isinstance(requirements, str):
        requirements = [requirements]
    spec = VenvSpec(
        python=options.get("python"),
        requirements=list(requirements),
        aptPackages=list(options.get("apt_packages", ())),
        preload=list(options.get("preload", ())),
    )
    return _Job(spec, options)


def _answering(url: str | None, token: str | None) -> tuple[str, str | None] | None:
    """The controller that is named and answers; None where none is named, or only a stale file of the home names one.

    Raises:
        NoController: one is named on purpose and does not answer.
    """
    try:
        found = find_controller(url, token)
    except NoController:
        return None
    with Controller(*found) as controller:
        if controller.alive():
            return found
    if named(url):
        raise NoController(f"no controller answers at {found[0]}: {HOW_TO_START}")
    return None


@contextlib.contextmanager
def controller(url: str | None = None, token: str | None = None) -> Iterator[tuple[str, str | None]]:
    """URL and token of a controller: the one that is named and answers, else one of our own while the block runs.

    Raises:
        NoController: none answers, and its program is not installed here.
    """
    found = _answering(url, token)
    if found is not None:
        yield found
        return
    try:
        own = launch.start(home())
    except NoController:
        raise
    except Unavailable:
        # Another program may have started one for the same home a moment before.
        found = _answering_soon(url, token)
        if found is None:
            raise
        yield found
        return
    try:
        yield own.url, own.token
    finally:
        own.stop()


def _answering_soon(url: str | None, token: str | None) -> tuple[str, str | None] | None:
    deadline = time.monotonic() + _SOON
    while (found := _answering(url, token)) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def backend(requirements: Sequence[str] = (), **options: Unpack[Options]) -> Iterator[Backend]:
    """A running backend for a list of requirements, connected; at the end of the block it is stopped and removed.

    The runtime and the venv are made where they are absent, and stay: the next call finds them by their content.
    A controller is found as `Options.controller` says. The other arguments are those of `Options`.

    Raises:
        NoController: none answers, and its program is not installed here.
        VenvdError: what cannot be built or started, and why.
    """
    job = _job(requirements, options)
    with controller(options.get("controller"), options.get("token")) as (url, token), Controller(url, token) as client:
        made = client.run(job.flow())
        try:
            with Backend(made.url or "", made.token, timeout=options.get("timeout")) as connected:
                yield connected
        finally:
            _remove(made.name, (url, token), options)


def _remove(name: str, at: tuple[str, str | None], options: Options) -> None:
    """Stop and remove a backend; where its controller was another program's and ended with that, by one of our own."""
    with contextlib.suppress(NotFound):
        try:
            with Controller(*at) as client:
                client.backends.delete(name)
        except NoController:
            if named(options.get("controller")):
                raise
            with controller() as again, Controller(*again) as client:
                client.backends.delete(name)


@contextlib.asynccontextmanager
async def backend_async(requirements: Sequence[str] = (), **options: Unpack[Options]) -> AsyncIterator[AsyncBackend]:
    """The same for asyncio."""
    job = _job(requirements, options)
    async with contextlib.AsyncExitStack() as stack:
        own = controller(options.get("controller"), options.get("token"))
        url, token = await asyncio.to_thread(own.__enter__)
        stack.push_async_callback(asyncio.to_thread, own.__exit__, None, None, None)
        client = await stack.enter_async_context(AsyncController(url, token))
        made = await client.run(job.flow())
        stack.push_async_callback(asyncio.to_thread, _remove, made.name, (url, token), options)
        connected = AsyncBackend(made.url or "", made.token, timeout=options.get("timeout"))
        yield await stack.enter_async_context(connected)


__all__ = ["Options", "backend", "backend_async", "controller"]
