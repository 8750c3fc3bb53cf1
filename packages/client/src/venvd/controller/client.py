"""A client of the controller."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar

from venvd.controller import asks, flows
from venvd.controller.asks import Ask, Follow, RuntimeChange, Sleep, Step
from venvd.controller.flows import OnEvent, quiet
from venvd.controller.wire import ControllerWire, Events
from venvd.errors import NoController, Unreachable
from venvd.flow import Flow, drive
from venvd.home import find_controller, token_source
from venvd.net.blocking import Pool
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


class Controller:
    """A client of one controller; any thread may use it.

    Args:
        url: `http://host:port`; None finds it: `VENVD_URL`, else the file `url` of `VENVD_HOME`.
        token: None finds it: `VENVD_TOKEN`, else the file `token` of `VENVD_HOME`.

    Raises:
        NoController: none is named anywhere, or, from every method, none answers.
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        self.url, found = find_controller(url, token)
        self._wire = ControllerWire(self.url, found, token_source(self.url, token))
        self._pool = Pool(self._wire.endpoint)
        self.runtimes = Runtimes(self)
        self.venvs = Venvs(self)
        self.backends = Backends(self)
        self.operations = Operations(self)

    def __repr__(self) -> str:
        return f"<venvd controller {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._pool.close()

    def status(self) -> ControllerStatus:
        """What runs."""
        return self.ask(asks.status())

    def config(self) -> ConfigReport:
        """Every setting, where it came from, what is unsafe or missing."""
        return self.ask(asks.config())

    def alive(self) -> bool:
        """Whether a controller answers at the address."""
        try:
            self.ask(asks.alive())
        except NoController:
            return False
        return True

    def ensure_provider(self, provider: str, model: str | None = None) -> VenvChange:
        """The venv of a provider, made where it is absent."""
        return self.ask(asks.ensure_provider(provider, model))

    def leftovers(self, *, everything: bool = False) -> Sequence[Leftover]:
        """What the home keeps and nothing uses; `everything`: also what would be made again when it is needed."""
        return self.ask(asks.leftovers(everything=everything, remove=False))

    def prune(self, *, everything: bool = False) -> Sequence[Leftover]:
        """Remove what `leftovers` tells; what was removed."""
        return self.ask(asks.leftovers(everything=everything, remove=True))

    # ---- what everything goes through ----

    def ask(self, ask: Ask[T]) -> T:
        """Send one request and wait for its answer."""
        exchange, reader = self._wire.exchange(ask)
        try:
            self._pool.run(exchange, deadline_after(ask.timeout))
        except Unreachable as error:
            raise self._wire.no_controller(error) from None
        return self._wire.answer(ask, reader)

    def follow(self, follow: Follow) -> None:
        """Follow a stream of events until it ends or enough has come."""
        for _ in self.arrivals(follow):
            pass

    def arrivals(self, follow: Follow) -> Iterator[None]:
        exchange, reader = self._wire.following(follow)
        events = Events(self._wire, follow, reader)
        try:
            with closing(self._pool.stream(exchange)) as arrivals:  # type: ignore[type-var]
                for _ in arrivals:
                    enough = events.stop()
                    yield
                    if enough:
                        break
        except Unreachable as error:
            raise self._wire.no_controller(error) from None

    def run(self, flow: Flow[Step, T]) -> T:
        """Run logic of several requests."""
        return drive(flow, self._perform)

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Sleep):
            return time.sleep(step.seconds)
        return self.follow(step) if isinstance(step, Follow) else self.ask(step)


class Runtimes:
    """CPythons by version."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def list(self) -> list[Runtime]:
        return self._controller.run(asks.pages("/v1/runtimes", Runtime))

    def init(self, version: str) -> RuntimeChange:
        """Ask for a runtime, such as `3.13`; wait for its `operation` where there is one."""
        return self._controller.ask(asks.init_runtime(version))

    def ensure(self, version: str | None = None, on_event: OnEvent = quiet) -> str:
        """The version of a runtime that is ready, made where it is absent; None is the default one, or the newest."""
        return self._controller.run(flows.ensure_runtime(version, on_event))

    def newest(self, on_event: OnEvent = quiet) -> str:
        """Make the newest supported CPython ready that the engine can provide; its version."""
        return self._controller.run(flows.newest_runtime(on_event))

    def set_default(self, version: str) -> Runtime:
        """Choose the runtime of venvs that name none."""
        return self._controller.ask(asks.default_runtime(version))

    def delete(self, version: str) -> None:
        self._controller.ask(asks.delete_runtime(version))


class Venvs:
    """Environments by name."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def put(self, name: str, spec: VenvSpec) -> VenvChange:
        """Create or change a venv; wait for the change's `operation` where there is one."""
        return self._controller.ask(asks.put_venv(name, spec))

    def ensure(self, name: str, spec: VenvSpec, on_event: OnEvent = quiet) -> resources.Venv:
        """The venv once it is ready."""
        return self._controller.run(flows.ensure_venv(name, spec, on_event))

    def list(self) -> list[resources.Venv]:
        return self._controller.run(asks.pages("/v1/venvs", resources.Venv))

    def get(self, name: str) -> resources.Venv:
        return self._controller.ask(asks.get_venv(name))

    def delete(self, name: str) -> None:
        """Remove a venv; `InUse` names the backends that use it."""
        self._controller.ask(asks.delete_venv(name))

    def packages(self, name: str) -> Sequence[Package]:
        """What is installed in it."""
        return self._controller.run(asks.packages(name))

    def lock(self, name: str) -> str:
        """Its hash-pinned requirements file."""
        return self._controller.ask(asks.lock(name))


class Backends:
    """Running services by name."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def start(self, kind: str, *, limits: BackendLimits | None = None, **fields: Any) -> BackendStart:
        """Begin to start a backend; `fields` are those of `venvd_contract.resources.BackendSpec`."""
        return self._controller.ask(asks.start_backend(asks.backend_spec(kind, limits, fields)))

    def list(self) -> list[resources.Backend]:
        return self._controller.run(asks.pages("/v1/backends", resources.Backend))

    def get(self, name: str) -> resources.Backend:
        return self._controller.ask(asks.get_backend(name))

    def delete(self, name: str) -> None:
        """Stop and remove a backend."""
        self._controller.ask(asks.delete_backend(name))

    def restart(self, name: str) -> BackendStart:
        """Begin to restart a backend; URL and token stay, the sessions' state does not."""
        return self._controller.ask(asks.restart_backend(name))

    def logs(self, name: str, tail: int | None = None) -> Sequence[LogLine]:
        """The last lines of its log, oldest first."""
        return self._controller.ask(asks.logs(name, tail))

    def metrics(self, name: str) -> str:
        """What it measures, in Prometheus' text format."""
        return self._controller.ask(asks.metrics(name))

    def follow_logs(self, name: str, tail: int | None = None) -> Iterator[LogLine]:
        """The last lines of its log and then each as it comes, over restarts too, until the backend is removed or
        the iterator is closed.
        """
        lines: queue.SimpleQueue[LogLine] = queue.SimpleQueue()

        def take(event: ServerEvent) -> bool:
            line = asks.log_line(event)
            if line is not None:
                lines.put(line)
            return event.name == "done"

        query = {"tail": tail, "follow": "true"}
        for _ in self._controller.arrivals(Follow(asks.logs_path(name), take, query)):
            while not lines.empty():
                yield lines.get()


class Operations:
    """Long work."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def list(self) -> list[OperationInfo]:
        return self._controller.run(asks.pages("/v1/operations", OperationInfo))

    def get(self, key: str) -> OperationInfo:
        return self._controller.ask(asks.get_operation(key))

    def wait(self, operation: OperationInfo | None, on_event: OnEvent = quiet) -> None:
        """Until the operation succeeded; None is no wait. Raises what made it fail."""
        self._controller.run(flows.waited(operation, on_event))

    def cancel(self, key: str) -> None:
        self._controller.ask(asks.cancel_operation(key))
