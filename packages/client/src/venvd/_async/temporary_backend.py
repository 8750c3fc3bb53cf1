"""Starts a backend from a list of requirements, and removes it at the end of a `with` block."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Unpack

from venvd._async import workflows
from venvd._async.backend import AsyncBackend
from venvd._async.controller import AsyncController
from venvd._backend_options import Options, describe_options, plan_backend
from venvd._on_demand_controller import remove_backend, use_controller_async
from venvd_contract.resources import Replica


@describe_options
@contextlib.asynccontextmanager
async def backend_async(requirements: Sequence[str] = (), **options: Unpack[Options]) -> AsyncIterator[AsyncBackend]:
    """Start a backend for a list of requirements and connect to it. The end of the block stops and removes it.

    The call creates the runtime and the venv if they do not exist. They stay, and the next call finds them by their
    content. Without `controller`, the call uses the controller that the environment or the home names. If there is
    none, it starts a controller, which ends with the last program that uses it.

    Raises:
        NoController: no controller answers, and this environment does not contain its program.
        VenvdError: a build or a start fails. The message says why.
    """
    plan = plan_backend(requirements, options)
    async with (
        use_controller_async(options.get("controller"), options.get("token")) as address,
        AsyncController(*address) as controller,
    ):
        started = await workflows.start_from_requirements(
            controller._connection, plan.venv, plan.venv_spec, plan.backend_spec, plan.on_event
        )
        backend_token = controller.token_for(started)

        async def list_replicas() -> Sequence[Replica]:
            return await controller.backends.list_replicas(started.name)

        try:
            async with AsyncBackend(
                started.url or "",
                backend_token,
                timeout=options.get("timeout"),
                list_replicas=list_replicas if started.replicas else None,
            ) as connected:
                yield connected
        finally:
            await asyncio.to_thread(remove_backend, started.name, address, options.get("controller"))
