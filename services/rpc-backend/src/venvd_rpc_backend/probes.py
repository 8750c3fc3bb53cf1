"""grpc.health.v1 and server reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from venvd_contract.errors import VenvdError
from venvd_core.backend import Backend
from venvd_rpc_backend import context as contexts
from venvd_rpc_backend import status
from venvd_rpc_backend.context import PeerGuard
from venvd_rpc_backend.entrance import Entrance, OpenMethods

UPDATE_PAUSE = 0.25
REFLECTION = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)
"""One service under two names: the library has only the older one, and the messages are equal."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """Answers SERVING only while core is ready, for the server and for each service."""

    def __init__(self, backend: Backend, services: tuple[str, ...]) -> None:
        super().__init__()
        self._backend = backend
        self._names = ("", *services)
        self._last: Any = None

    async def update(self) -> None:
        """Set every status to the current readiness."""
        now = NOT_SERVING if self._backend.ready() else SERVING
        if now != self._last:
            self._last = now
            for name in self._names:
                await self.set(name, now)

    async def keep_updating(self) -> None:
        """Update the status regularly, for clients that watch it."""
        while True:
            await self.update()
            await asyncio.sleep(UPDATE_PAUSE)

    def route(self, entrance: Entrance) -> OpenMethods:
        """Return the handler of both methods, which clients may call without a token."""
        response = health_pb2.HealthCheckResponse.SerializeToString
        request = health_pb2.HealthCheckRequest.FromString
        handlers = {
            f"/{health.SERVICE_NAME}/Check": grpc.unary_unary_rpc_method_handler(self.Check, request, response),
            f"/{health.SERVICE_NAME}/Watch": grpc.unary_stream_rpc_method_handler(self.Watch, request, response),
        }
        return OpenMethods(handlers, entrance)

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 — the method's name
        await self.update()
        return await super().Check(request, context)


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    """Describes the services to clients with a token."""

    def __init__(self, guard: PeerGuard, services: tuple[str, ...]) -> None:
        super().__init__(services)
        self._guard = guard

    async def ServerReflectionInfo(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        try:
            contexts.authorise(self._guard, contexts.read_metadata(context.invocation_metadata()), context)
        except VenvdError as error:
            await status.refuse(context, error)
        async for response in super().ServerReflectionInfo(requests, context):
            yield response


def add(server: Any, backend: Backend, entrance: Entrance, services: tuple[str, ...]) -> Health:
    """Serve both; the caller runs `keep_updating`."""
    watch = Health(backend, services)
    server.add_generic_rpc_handlers((watch.route(entrance),))
    names = (*services, health.SERVICE_NAME, *REFLECTION)
    handler = grpc.stream_stream_rpc_method_handler(
        Reflection(entrance.guard, names).ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in REFLECTION]
    )
    return watch
