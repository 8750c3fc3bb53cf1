"""Work that takes several requests: waiting for operations, and making runtimes, venvs and backends ready."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime

from venvd import _controller_api as api
from venvd._async.connection import AsyncControllerConnection
from venvd._controller_api import OnEvent, ignore_event
from venvd._json_dataclasses import list_decoder
from venvd.errors import Cancelled, DeadlineExceeded, InUse, NotFound, Unavailable
from venvd_contract.access import AuditEntry
from venvd_contract.resources import Backend, BackendSpec, OperationInfo, Runtime, Venv, VenvSpec

_RETRIES = 60
_PAUSE = 0.25
_START_CHECKS = 120


async def wait(
    connection: AsyncControllerConnection, operation: OperationInfo | None, on_event: OnEvent = ignore_event
) -> None:
    """Wait until an operation succeeds. If the controller restarts meanwhile, wait for it too.

    Args:
        connection: the connection to the controller.
        operation: the operation; None returns at once.
        on_event: takes each event of the operation.

    Raises:
        VenvdError: the error of the operation, `Cancelled` if it was cancelled.
    """
    if operation is None or operation.state == "succeeded":
        return
    info = operation
    last_id = ""
    failures = 0
    while info.state not in api.FINAL_STATES:
        try:
            async with aclosing(connection.stream_events(api.events_path(operation.id), last_id=last_id)) as stream:
                async for server_event in stream:
                    failures = 0
                    last_id = server_event.id or last_id
                    event = api.parse_operation_event(server_event)
                    on_event(event)
                    if event.kind == "done":
                        info = event.data
                        break
            if info.state not in api.FINAL_STATES:
                info = await connection.send(api.get_operation(operation.id))
        except (Unavailable, DeadlineExceeded):
            failures += 1
            if failures > _RETRIES:
                raise
        if info.state not in api.FINAL_STATES:
            await asyncio.sleep(_PAUSE)
    api.check_succeeded(info)


async def read_audit(
    connection: AsyncControllerConnection, since: datetime | str | None, key: str | None, limit: int
) -> list[AuditEntry]:
    """Read the newest `limit` lines of the audit log, and return them oldest first."""
    entries: list[AuditEntry] = []
    after: str | None = None
    while len(entries) < limit:
        page = await connection.send(api.get_audit(since, key, after, limit - len(entries)))
        entries += list_decoder(AuditEntry)(page.items)
        after = page.next
        if after is None:
            break
    return entries[::-1]


async def ensure_runtime(
    connection: AsyncControllerConnection, version: str | None, on_event: OnEvent = ignore_event
) -> str:
    """Make a runtime ready and return its version.

    None means the default runtime, else the newest one that is ready, else the newest that the engine can provide.
    """
    if version is None:
        runtimes = await connection.list_all("/v1/runtimes", Runtime)
        usable = [runtime for runtime in runtimes if runtime.default or runtime.state == "ready"]
        if not usable:
            return await ensure_newest_runtime(connection, on_event)
        version = max(usable, key=api.rank_runtime).version
    change = await connection.send(api.init_runtime(version))
    await wait(connection, change.operation, on_event)
    return version


async def ensure_newest_runtime(connection: AsyncControllerConnection, on_event: OnEvent = ignore_event) -> str:
    """Make the newest supported CPython ready that the engine can provide, and return its version."""
    missing: list[str] = []
    for version in api.SUPPORTED_VERSIONS:
        try:
            change = await connection.send(api.init_runtime(version))
            await wait(connection, change.operation, on_event)
        except NotFound as error:
            missing.append(error.message)
            with contextlib.suppress(NotFound, InUse):  # another client may have tried the same version
                await connection.send(api.delete_runtime(version))
        else:
            return version
    raise NotFound("the engine has none of the supported CPythons: " + "; ".join(missing))


async def ensure_venv(
    connection: AsyncControllerConnection, name: str, spec: VenvSpec, on_event: OnEvent = ignore_event
) -> Venv:
    """Create or change a venv, wait until it is ready, and return it."""
    change = await connection.send(api.put_venv(name, spec))
    operation = change.operation
    while True:
        try:
            await wait(connection, operation, on_event)
        except Cancelled:
            # Another client that wants the same venv may have started its build again.
            venv = await connection.send(api.get_venv(name))
            if operation is None or venv.operation in {None, operation.id}:
                raise
            operation = await connection.send(api.get_operation(venv.operation))
        else:
            return await connection.send(api.get_venv(name))


async def start_backend(
    connection: AsyncControllerConnection, spec: BackendSpec, on_event: OnEvent = ignore_event
) -> Backend:
    """Start a backend and return it once it runs. Remove a backend that fails to start."""
    started = await connection.send(api.start_backend(spec))
    name = started.backend.name
    try:
        await wait(connection, started.operation, on_event)
        return await _wait_until_running(connection, name)
    except BaseException:
        with contextlib.suppress(Unavailable, DeadlineExceeded, NotFound):  # the first error says more
            await connection.send(api.delete_backend(name))
        raise


async def _wait_until_running(connection: AsyncControllerConnection, name: str) -> Backend:
    """Wait until a backend whose start succeeded has the state `running`.

    Raises:
        Unavailable: the backend ended, or does not become ready. The message says why.
    """
    for _ in range(_START_CHECKS):
        backend = await connection.send(api.get_backend(name))
        if backend.state == "running":
            return backend
        if backend.state in {"failed", "stopping"}:
            break
        await asyncio.sleep(_PAUSE)
    raise Unavailable(f'backend "{name}" is {backend.state}' + (f": {backend.error}" if backend.error else ""))


async def start_from_requirements(
    connection: AsyncControllerConnection,
    venv: str | None,
    spec: VenvSpec,
    backend_spec: Callable[[str], BackendSpec],
    on_event: OnEvent = ignore_event,
) -> Backend:
    """Make a runtime and a venv ready, and start a backend.

    Args:
        connection: the connection to the controller.
        venv: an existing venv if `spec` is empty, else the name for the venv of `spec`. None chooses a stable name.
        spec: what the venv should contain.
        backend_spec: returns the specification of the backend for the venv of that name.
        on_event: takes each event of the operations.
    """
    if venv is not None and spec == VenvSpec():
        existing = await connection.send(api.get_venv(venv))
        if existing.operation is not None and existing.state in {"pending", "building"}:
            operation = await connection.send(api.get_operation(existing.operation))
            await wait(connection, operation, on_event)
        return await start_backend(connection, backend_spec(venv), on_event)
    spec.python = await ensure_runtime(connection, spec.python, on_event)
    name = venv or api.stable_venv_name(spec)
    await ensure_venv(connection, name, spec, on_event)
    return await start_backend(connection, backend_spec(name), on_event)
