"""What a client asks of the controller, and how it reads the answers; knows no socket."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from venvd.errors import BadReply, InvalidRequest
from venvd.flow import Flow
from venvd.net.sse import ServerEvent
from venvd.records import record, records
from venvd_contract import resources
from venvd_contract.resources import (
    BackendLimits,
    BackendSpec,
    BackendStart,
    ConfigReport,
    ControllerStatus,
    Event,
    Leftover,
    LeftoverList,
    LogLine,
    OperationInfo,
    Package,
    Runtime,
    VenvChange,
    VenvSpec,
)

T = TypeVar("T")

TIMEOUT = 60.0
"""Seconds for one answer of the controller; what takes longer is an operation."""
_PRUNING = 1800.0


@dataclass(slots=True)
class Ask(Generic[T]):
    """One request of the REST API; `decode` makes the caller's value of the JSON."""

    method: str
    path: str
    decode: Callable[[Any], T]
    body: Any = None
    query: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = TIMEOUT

    @property
    def target(self) -> str:
        given = {name: value for name, value in self.query.items() if value is not None}
        return self.path + ("?" + urlencode(given) if given else "")

    @property
    def data(self) -> bytes:
        """The body's bytes."""
        if self.body is None:
            return b""
        try:
            return json.dumps(self.body, allow_nan=False).encode("utf-8")
        except ValueError as error:
            raise InvalidRequest(f"{self.method} {self.path}: the request has no JSON form: {error}") from None

    @property
    def repeatable(self) -> bool:
        return self.method in {"GET", "PUT", "DELETE"}

    def finish(self, result: Any) -> T:
        try:
            return self.decode(result)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadReply(
                f"{self.method} {self.path}: the answer has not the shape of the contract: {error!r}"
            ) from None


@dataclass(slots=True)
class Follow:
    """A stream of server-sent events; it ends where the controller ends it or `take` answers true."""

    path: str
    take: Callable[[ServerEvent], bool]
    query: Mapping[str, Any] = field(default_factory=dict)
    last_id: str = ""


@dataclass(slots=True)
class Sleep:
    seconds: float


Step = Ask[Any] | Follow | Sleep


def segment(name: str) -> str:
    """A name as one segment of a path.

    Raises:
        InvalidRequest: it would be none, or several.
    """
    if name in {"", ".", ".."} or "/" in name:
        rule = "1 to 63 lower-case letters, digits and hyphens, a letter or digit first and last"
        raise InvalidRequest(f'"{name[:80]}" is no name: {rule}')
    return quote(name, safe="")


def nothing(_: Any) -> None:
    return None


def one(kind: type[T]) -> Callable[[Any], T]:
    """What makes a `kind` out of a JSON object."""
    return lambda data: record(kind, data)


def pages(path: str, kind: type[T]) -> Flow[Step, list[T]]:
    """Everything of a paged list."""
    found: list[T] = []
    after: str | None = None
    while True:
        page = yield Ask("GET", path, one(resources.Page), query={"after": after, "limit": 200})
        found += records(kind)(page.items)
        if page.next is None or page.next == after:
            return found
        after = page.next


# ---- runtimes ----


@dataclass
class RuntimeChange:
    """A runtime that was asked for; `operation` is null where there was nothing to do."""

    runtime: Runtime
    operation: OperationInfo | None = None


def init_runtime(version: str) -> Ask[RuntimeChange]:
    return Ask("PUT", f"/v1/runtimes/{segment(resources.check_version(version))}", one(RuntimeChange))


def default_runtime(version: str) -> Ask[Runtime]:
    return Ask("PUT", "/v1/runtimes/default", one(Runtime), {"version": version})


def delete_runtime(version: str) -> Ask[None]:
    return Ask("DELETE", f"/v1/runtimes/{segment(version)}", nothing)


# ---- venvs ----


def put_venv(name: str, spec: VenvSpec) -> Ask[VenvChange]:
    return Ask("PUT", f"/v1/venvs/{segment(name)}", one(VenvChange), dataclasses.asdict(spec))


def get_venv(name: str) -> Ask[resources.Venv]:
    return Ask("GET", f"/v1/venvs/{segment(name)}", one(resources.Venv))


def delete_venv(name: str) -> Ask[None]:
    return Ask("DELETE", f"/v1/venvs/{segment(name)}", nothing)


def packages(name: str) -> Flow[Step, list[Package]]:
    return pages(f"/v1/venvs/{segment(name)}/packages", Package)


def lock(name: str) -> Ask[str]:
    return Ask("GET", f"/v1/venvs/{segment(name)}/lock", lambda data: data if isinstance(data, str) else data["lock"])


def leftovers(*, everything: bool, remove: bool) -> Ask[list[Leftover]]:
    """What nothing uses; with `remove`, what was removed of it."""

    def items(data: Any) -> list[Leftover]:
        return record(LeftoverList, data).items

    method = "DELETE" if remove else "GET"
    return Ask(method, "/v1/leftovers", items, query={"everything": json.dumps(everything)}, timeout=_PRUNING)


def ensure_provider(provider: str, model: str | None) -> Ask[VenvChange]:
    return Ask("PUT", f"/v1/providers/{segment(provider)}/venv", one(VenvChange), query={"model": model})


# ---- backends ----


def backend_spec(kind: str, limits: BackendLimits | None, fields: Mapping[str, Any]) -> BackendSpec:
    """The specification of a backend; `fields` are those that differ from their defaults."""
    given = {name: value for name, value in fields.items() if value is not None}
    return BackendSpec(type=kind, limits=limits or BackendLimits(), **given)


def start_backend(spec: BackendSpec) -> Ask[BackendStart]:
    return Ask("POST", "/v1/backends", one(BackendStart), dataclasses.asdict(spec))


def get_backend(name: str) -> Ask[resources.Backend]:
    return Ask("GET", f"/v1/backends/{segment(name)}", one(resources.Backend))


def delete_backend(name: str) -> Ask[None]:
    return Ask("DELETE", f"/v1/backends/{segment(name)}", nothing)


def restart_backend(name: str) -> Ask[BackendStart]:
    return Ask("POST", f"/v1/backends/{segment(name)}/restart", one(BackendStart))


def logs_path(name: str) -> str:
    return f"/v1/backends/{segment(name)}/logs"


def logs(name: str, tail: int | None) -> Ask[list[LogLine]]:
    def lines(data: Any) -> list[LogLine]:
        return records(LogLine)(data["items"])

    return Ask("GET", logs_path(name), lines, query={"tail": tail})


def metrics(name: str) -> Ask[str]:
    return Ask("GET", f"/v1/backends/{segment(name)}/metrics", str)


def log_line(event: ServerEvent) -> LogLine | None:
    """The line that an event of a followed log carries."""
    try:
        data = json.loads(event.data)
    except ValueError:
        raise BadReply("an event of a followed log is not JSON") from None
    return record(LogLine, data) if isinstance(data, dict) and "text" in data else None


# ---- operations, status, config ----


def get_operation(key: str) -> Ask[OperationInfo]:
    return Ask("GET", f"/v1/operations/{segment(key)}", one(OperationInfo))


def cancel_operation(key: str) -> Ask[None]:
    return Ask("DELETE", f"/v1/operations/{segment(key)}", nothing)


def operation_event(event: ServerEvent) -> Event:
    """An operation's event; that of `done` carries the `OperationInfo`."""
    try:
        data = json.loads(event.data)
    except ValueError:
        raise BadReply("an event of an operation is not JSON") from None
    if event.name == "done":
        data = record(OperationInfo, data)
    return Event(int(event.id) if event.id.isdecimal() else 0, event.name, data)


def status() -> Ask[ControllerStatus]:
    return Ask("GET", "/v1/status", one(ControllerStatus))


def config() -> Ask[ConfigReport]:
    return Ask("GET", "/v1/config", one(ConfigReport))


def alive() -> Ask[None]:
    return Ask("GET", "/livez", nothing, timeout=5.0)


def ready() -> Ask[None]:
    return Ask("GET", "/readyz", nothing, timeout=5.0)
