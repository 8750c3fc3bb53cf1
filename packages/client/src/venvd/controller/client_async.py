"""A client of the controller for asyncio: the same methods as in `venvd.controller.client`, to be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

from venvd.controller import asks, flows
from venvd.controller.asks import Ask, Follow, RuntimeChange, Sleep, Step
from venvd.controller.flows import OnEvent, quiet
from venvd.controller.wire import ControllerWire, Events
from venvd.errors import NoController, Unreachable
from venvd.flow import Flow, drive_async
from venvd.home import find_controller, token_source
from venvd.net.aio import Pool
from venvd.net.endpoint import deadline_after
from venvd.net.sse import ServerEvent
from venvd_contract import resources
from venvd_contract.resources import (
    BackendLimits,
    BackendStart,
    ConfigReport,
    ControllerStatus,
    Leftover,
    LogLine,
    OperationInfo,
    Package,
    Runtime,
    VenvChange,
    VenvSpec,
)

T = TypeVar("T")


class AsyncController:
    """A client of one controller, for one event loop; arguments and errors are those of `venvd.Controller`."""

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        self.url, found = find_controller(url, token)
        self._wire = ControllerWire(self.url, found, token_source(self.url, token))
        self._pool = Pool(self._wire.endpoint)
        self.runtimes = AsyncRuntimes(self)
        self.venvs = AsyncVenvs(self)
        self.backends = AsyncBackends(self)
        self.operations = AsyncOperations(self)

    def __repr__(self) -> str:
        return f"<venvd controller {self.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._pool.close()

    async def status(self) -> ControllerStatus:
        """What runs."""
        return await self.ask(asks.status())

    async def config(self) -> ConfigReport:
        """Every setting, where it came from, what is unsafe or missing."""
        return await self.ask(asks.config())

    async def alive(self) -> bool:
        """Whether a controller answers at the address."""
        try:
            await self.ask(asks.alive())
        except NoController:
            return False
        return True

    async def ensure_provider(self, provider: str, model: str | None = None) -> VenvChange:
        """The venv of a provider, made where it is absent."""
        return await self.ask(asks.ensure_provider(provider, model))

    async def leftovers(self, *, everything: bool = False) -> Sequence[Leftover]:
        """What the home keeps and nothing uses; `everything`: also what would be made again when it is needed."""
        return await self.ask(asks.leftovers(everything=everything, remove=False))

    async def prune(self, *, everything: bool = False) -> Sequence[Leftover]:
        """Remove what `leftovers` tells; what was removed."""
        return await self.ask(asks.leftovers(everything=everything, remove=True))

    # ---- what everything goes through ----

    async def ask(self, ask: Ask[T]) -> T:
        """Send one request and wait for its answer."""
        exchange, reader = self._wire.exchange(ask)
        try:
            await self._pool.run(exchange, deadline_after(ask.timeout))
        except Unreachable as error:
            raise self._wire.no_controller(error) from None
        return self._wire.answer(ask, reader)

    async def follow(self, follow: Follow) -> None:
        """Follow a stream of events until it ends or enough has come."""
        async with aclosing(self.arrivals(follow)) as arrivals:  # type: ignore[type-var]
            async for _ in arrivals:
                pass

    async def arrivals(self, follow: Follow) -> AsyncIterator[None]:
        exchange, reader = self._wire.following(follow)
        events = Events(self._wire, follow, reader)
        try:
            async with aclosing(self._pool.stream(exchange)) as arrivals:  # type: ignore[type-var]
                async for _ in arrivals:
                    enough = events.stop()
                    yield
                    if enough:
                        break
        except Unreachable as error:
            raise self._wire.no_controller(error) from None

    async def run(self, flow: Flow[Step, T]) -> T:
        """Run logic of several requests."""
        return await drive_async(flow, self._perform)

    async def _perform(self, step: Step) -> Any:
        if isinstance(step, Sleep):
            return await asyncio.sleep(step.seconds)
        return await (self.follow(step) if isinstance(step, Follow) else self.ask(step))


class AsyncRuntimes:
    """CPythons by version."""

    def __init__(self, controller: AsyncController) -> None:
        self._controller = controller

    async def list(self) -> list[Runtime]:
        return await self._controller.run(asks.pages("/v1/runtimes", Runtime))

    async def init(self, version: str) -> RuntimeChange:
        """Ask for a runtime, such as `3.13`; wait for its `operation` where there is one."""
        return await self._controller.ask(asks.init_runtime(version))

    async def ensure(self, version: str | None = None, on_event: OnEvent = quiet) -> str:
        """The version of a runtime that is ready, made where it is absent; None is the default one, or the newest."""
        return await self._controller.run(flows.ensure_runtime(version, on_event))

    async def newest(self, on_event: OnEvent = quiet) -> str:
        """Make the newest supported CPython ready that the engine can provide; its version."""
        return await self._controller.run(flows.newest_runtime(on_event))

    async def set_default(self, version: str) -> Runtime:
        """Choose the runtime of venvs that name none."""
        return await self._controller.ask(asks.default_runtime(version))

    async def delete(self, version: str) -> None:
        await self._controller.ask(asks.delete_runtime(version))


class AsyncVenvs:
    """Environments by name."""

    def __init__(self, controller: AsyncController) -> None:
        self._controller = controller

    async def put(self, name: str, spec: VenvSpec) -> VenvChange:
        """Create or change a venv; wait for the change's `operation` where there is one."""
        return await self._controller.ask(asks.put_venv(name, spec))

    async def ensure(self, name: str, spec: VenvSpec, on_event: OnEvent = quiet) -> resources.Venv:
        """The venv once it is ready."""
        return await self._controller.run(flows.ensure_venv(name, spec, on_event))

    async def list(self) -> list[resources.Venv]:
        return await self._controller.run(asks.pages("/v1/venvs", resources.Venv))

    async def get(self, name: str) -> resources.Venv:
        return await self._controller.ask(asks.get_venv(name))

    async def delete(self, name: str) -> None:
        """Remove a venv; `InUse` names the backends that use it."""
        await self._controller.ask(asks.delete_venv(name))

    async def packages(self, name: str) -> Sequence[Package]:
        """What is installed in it."""
        return await self._controller.run(asks.packages(name))

    async def lock(self, name: str) -> str:
        """Its hash-pinned requirements file."""
        return await self._controller.ask(asks.lock(name))


class AsyncBackends:
    """Running services by name."""

    def __init__(self, controller: AsyncController) -> None:
        self._controller = controller

    async def start(self, kind: str, *, limits: BackendLimits | None = None, **fields: Any) -> BackendStart:
        """Begin to start a backend; `fields` are those of `venvd_contract.resources.BackendSpec`."""
        return await self._controller.ask(asks.start_backend(asks.backend_spec(kind, limits, fields)))

    async def list(self) -> list[resources.Backend]:
        return await self._controller.run(asks.pages("/v1/backends", resources.Backend))

    async def get(self, name: str) -> resources.Backend:
        return await self._controller.ask(asks.get_backend(name))

    async def delete(self, name: str) -> None:
        """Stop and remove a backend."""
        await self._controller.ask(asks.delete_backend(name))

    async def restart(self, name: str) -> BackendStart:
        """Begin to restart a backend; URL and token stay, the sessions' state does not."""
        return await self._controller.ask(asks.restart_backend(name))

    async def logs(self, name: str, tail: int | None = None) -> Sequence[LogLine]:
        """The last lines of its log, oldest first."""
        return await self._controller.ask(asks.logs(name, tail))

    async def metrics(self, name: str) -> str:
        """What it measures, in Prometheus' text format."""
        return await self._controller.ask(asks.metrics(name))

    async def follow_logs(self, name: str, tail: int | None = None) -> AsyncIterator[LogLine]:
        """The last lines of its log and then each as it comes, over restarts too, until the backend is removed or
        the iterator is closed.
        """
        lines: list[LogLine] = []

        def take(event: ServerEvent) -> bool:
            line = asks.log_line(event)
            if line is not None:
                lines.append(line)
            return event.name == "done"

        follow = Follow(asks.logs_path(name), take, {"tail": tail, "follow": "true"})
        async for _ in self._controller.arrivals(follow):
            for line in lines:
                yield line
            lines.clear()


class AsyncOperations:
    """Long work."""

    def __init__(self, controller: AsyncController) -> None:
        self._controller = controller

    async def list(self) -> list[OperationInfo]:
        return await self._controller.run(asks.pages("/v1/operations", OperationInfo))

    async def get(self, key: str) -> OperationInfo:
        return await self._controller.ask(asks.get_operation(key))

    async def wait(self, operation: OperationInfo | None, on_event: OnEvent = quiet) -> None:
        """Until the operation succeeded; None is no wait. Raises what made it fail."""
        await self._controller.run(flows.waited(operation, on_event))

    async def cancel(self, key: str) -> None:
        await self._controller.ask(asks.cancel_operation(key))
