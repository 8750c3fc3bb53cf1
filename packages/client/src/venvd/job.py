"""The whole job in one call: a Python version and requirements in, a backend out, and nothing left at the end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from venvd.controller import asks, flows
from venvd.controller.asks import Step
from venvd.controller.client import Controller
from venvd.controller.client_async import AsyncController
from venvd.controller.flows import OnEvent, quiet
from venvd.errors import NoController, NotFound
from venvd.flow import Flow
from venvd.home import named
from venvd.private import controller
from venvd.session import Backend
from venvd.session_async import AsyncBackend
from venvd_contract.resources import BackendLimits, BackendSpec, VenvSpec, check_version


class Options(TypedDict, total=False):
    """What `backend` takes beside the requirements.

    Attributes:
        python: a version such as `3.13`; absent is the controller's default, or the newest it can provide.
        venv: the name of a venv that exists, or for the one that the requirements make; absent makes up a stable one.
        type: `http` (default), `pipe`, or `rpc` (the extra `grpc`).
        name: the backend's; absent makes up one.
        port: absent is a free one.
        apt_packages: Debian packages of the venv.
        preload: modules imported before the first session.
        network: whether user code may reach the network.
        env: environment variables of user code.
        limits: of the worker host.
        timeout: seconds for calls that name none.
        controller, token: of the controller; absent is the one that the environment or home names, else a private one.
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
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}; there are {', '.join(Options.__annotations__)}")
    flows.check_supported(options.get("type", "http"))
    if isinstance(requirements, str):
        requirements = [requirements]
    python = options.get("python")
    spec = VenvSpec(
        python=None if python is None else check_version(python),
        requirements=list(requirements),
        aptPackages=list(options.get("apt_packages", ())),
        preload=list(options.get("preload", ())),
    )
    return _Job(spec, options)


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
    """Stop and remove a backend; where the home's controller was stopped meanwhile, through another."""
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


__all__ = ["Options", "backend", "backend_async"]
