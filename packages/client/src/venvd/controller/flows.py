"""What takes several requests: waiting for operations, and making a backend ready. The same for sync and async."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable

from venvd.controller import asks
from venvd.controller.asks import Follow, Sleep, Step
from venvd.errors import Cancelled, DeadlineExceeded, InvalidRequest, NotFound, Unavailable, decoded
from venvd.flow import Flow
from venvd.net.sse import ServerEvent
from venvd_contract import resources
from venvd_contract.resources import BackendSpec, Event, OperationInfo, Runtime, VenvSpec

FINAL = frozenset({"succeeded", "failed", "cancelled"})
_RETRIES = 60
_PAUSE = 0.25

OnEvent = Callable[[Event], None]


def quiet(_: Event) -> None:
    """For those who do not look."""


def wait(operation: OperationInfo, on_event: OnEvent = quiet) -> Flow[Step, OperationInfo]:
    """Until an operation is done, telling its events on the way; a controller that restarts in between is waited for.

    Raises:
        VenvdError: what made the operation fail; `Cancelled` where it was cancelled.
    """
    last_id = ""
    failures = 0
    info = operation

    def take(event: ServerEvent) -> bool:
        nonlocal last_id, info, failures
        failures = 0
        last_id = event.id or last_id
        found = asks.operation_event(event)
        if found.kind == "done":
            info = found.data
        on_event(found)
        return found.kind == "done"

    while info.state not in FINAL:
        try:
            yield Follow(f"/v1/operations/{asks.segment(operation.id)}/events", take, last_id=last_id)
            if info.state not in FINAL:
                info = yield asks.get_operation(operation.id)
        except (Unavailable, DeadlineExceeded):
            failures += 1
            if failures > _RETRIES:
                raise
        if info.state not in FINAL:
            yield Sleep(_PAUSE)
    return finished(info)


def finished(info: OperationInfo) -> OperationInfo:
    """The operation, if it succeeded.

    Raises:
        VenvdError: what made it fail; `Cancelled` where it was cancelled.
    """
    if info.state == "cancelled":
        raise Cancelled(f"{info.kind} of {info.target} was cancelled")
    if info.state == "failed":
        raise decoded(info.error or {"code": "internal", "error": f"{info.kind} of {info.target} failed"})
    return info


def waited(operation: OperationInfo | None, on_event: OnEvent) -> Flow[Step, None]:
    """Wait where there is something to wait for."""
    if operation is not None and operation.state != "succeeded":
        yield from wait(operation, on_event)


def ensure_runtime(version: str | None, on_event: OnEvent = quiet) -> Flow[Step, str]:
    """The version of a runtime that is ready; None is the default, else the newest that is there, else the newest."""
    if version is None:
        runtimes: list[Runtime] = yield from asks.pages("/v1/runtimes", Runtime)
        usable = [runtime for runtime in runtimes if runtime.default or runtime.state == "ready"]
        if not usable:
            return (yield from newest_runtime(on_event))
        version = max(usable, key=_preference).version
    change = yield asks.init_runtime(version)
    yield from waited(change.operation, on_event)
    return version


def _preference(runtime: Runtime) -> tuple[bool, list[int]]:
    return runtime.default, [int(number) for number in re.findall(r"\d+", runtime.version)]


CANDIDATES = ("3.14", "3.13", "3.12", "3.11", "3.10", "3.9")
"""Supported CPythons, the newest first."""


def newest_runtime(on_event: OnEvent = quiet) -> Flow[Step, str]:
    """Init the newest supported CPython that the engine can provide."""
    missing: list[str] = []
    for version in CANDIDATES:
        try:
            change = yield asks.init_runtime(version)
            yield from waited(change.operation, on_event)
        except NotFound as error:
            missing.append(error.message)
            yield asks.delete_runtime(version)
        else:
            return version
    raise NotFound("the engine has none of the supported CPythons: " + "; ".join(missing))


def ensure_venv(name: str, spec: VenvSpec, on_event: OnEvent = quiet) -> Flow[Step, resources.Venv]:
    """The venv once it is ready."""
    change = yield asks.put_venv(name, spec)
    operation = change.operation
    while True:
        try:
            yield from waited(operation, on_event)
        except Cancelled:
            # Another client that asked for the same venv may have begun its build anew.
            venv: resources.Venv = yield asks.get_venv(name)
            if operation is None or venv.operation in {None, operation.id}:
                raise
            operation = yield asks.get_operation(venv.operation)
        else:
            venv = yield asks.get_venv(name)
            return venv


def start(spec: BackendSpec, on_event: OnEvent = quiet) -> Flow[Step, resources.Backend]:
    """A backend that runs; one that could not be started is removed again."""
    started = yield asks.start_backend(spec)
    name = started.backend.name
    try:
        yield from waited(started.operation, on_event)
        return (yield from running(name))
    except BaseException:
        with contextlib.suppress(Unavailable, DeadlineExceeded, NotFound):  # the first error says more
            yield asks.delete_backend(name)
        raise


def running(name: str) -> Flow[Step, resources.Backend]:
    """A backend whose start succeeded, once its state says so too.

    Raises:
        Unavailable: it ended, or does not become ready; says why.
    """
    for _ in range(120):
        backend: resources.Backend = yield asks.get_backend(name)
        if backend.state == "running":
            return backend
        if backend.state in {"failed", "stopping"}:
            break
        yield Sleep(_PAUSE)
    raise Unavailable(f'backend "{name}" is {backend.state}' + (f": {backend.error}" if backend.error else ""))


def stable_name(spec: VenvSpec) -> str:
    """A name for a venv nobody named: the same inputs give the same name."""
    parts = [spec.python, sorted(spec.requirements), sorted(spec.aptPackages), spec.preload, spec.network, spec.env]
    return "auto-" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def whole_job(
    venv: str | None, spec: VenvSpec, backend: Callable[[str], BackendSpec], on_event: OnEvent = quiet
) -> Flow[Step, resources.Backend]:
    """Runtime, venv and backend, each made where it is absent.

    `venv` is one that exists where `spec` asks for nothing, else the name for what it asks; None makes one up.
    `backend` gives the backend's specification for a venv of that name.
    """
    asked = spec != VenvSpec(python=spec.python)
    if venv is not None and not asked and spec.python is None:
        found: resources.Venv = yield asks.get_venv(venv)
        if found.operation is not None and found.state in {"pending", "building"}:
            yield from wait((yield asks.get_operation(found.operation)), on_event)
        return (yield from start(backend(venv), on_event))
    spec.python = yield from ensure_runtime(spec.python, on_event)
    name = venv or stable_name(spec)
    yield from ensure_venv(name, spec, on_event)
    return (yield from start(backend(name), on_event))


def check_supported(kind: str) -> str:
    """The type of a backend, if this client can speak to it."""
    if kind not in resources.BACKEND_TYPES:
        raise InvalidRequest(f'"{kind}" is no type of backend: choose one of {", ".join(resources.BACKEND_TYPES)}')
    if kind == "rpc" and importlib.util.find_spec("grpc") is None:
        raise InvalidRequest("a backend of type rpc needs the extra grpc here: pip install 'venvd[grpc]'")
    return kind
