"""The gRPC port of the router: its services, its health and its end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from venvd_contract.errors import Conflict
from venvd_http.auth import TokenGuard
from venvd_http.edge import read_proxies
from venvd_http.grpc_certificates import Certificates
from venvd_proto.v1 import python_service_pb2, session_service_pb2, venv_service_pb2
from venvd_router.activity import Activity
from venvd_router.loads import Loads
from venvd_router.probes import Probes
from venvd_router.replicas import Replicas
from venvd_router.rpc import statuses
from venvd_router.rpc.calls import Forwarding
from venvd_router.rpc.channels import Channels
from venvd_router.rpc.entrance import Entrance
from venvd_router.rpc.sessions import METHOD as SESSION
from venvd_router.rpc.sessions import SessionStreams
from venvd_router.settings import RouterSettings

log = logging.getLogger(__name__)

SERVICES = tuple(
    service
    for module in (python_service_pb2, session_service_pb2, venv_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)
_OPEN = "/venvd.v1.PythonService/Health"
_PING_SECONDS = 10
"""Seconds that a client must leave between its pings."""
_HEALTH_SECONDS = 1.0


class Routes(grpc.GenericRpcHandler):
    """Finds the handler of each method."""

    def __init__(self, entrance: Entrance, forwarding: Forwarding, streams: SessionStreams) -> None:
        self._entrance = entrance
        self._streams: Any = grpc.stream_stream_rpc_method_handler(streams.serve)
        self._refusing: Any = grpc.stream_stream_rpc_method_handler(self._refuse)
        self._health: Any = grpc.unary_unary_rpc_method_handler(_answer_health)
        self._forwarding = forwarding
        self._unary: dict[str, Any] = {
            path: grpc.unary_unary_rpc_method_handler(forwarding.make_unary(path))
            for service in SERVICES
            for method in service.methods
            if not (method.client_streaming or method.server_streaming)
            for path in (f"/{service.full_name}/{method.name}",)
        }

    def service(self, handler_call_details: Any) -> Any:
        """Find the handler of a call, for gRPC."""
        method = handler_call_details.method
        if method == _OPEN:
            return self._health
        if not self._entrance.knows(handler_call_details.invocation_metadata):
            return self._refusing
        if method == SESSION:
            return self._streams
        return self._unary.get(method) or grpc.stream_stream_rpc_method_handler(self._forwarding.make_stream(method))

    async def _refuse(self, _requests: Any, context: Any) -> None:
        try:
            self._entrance.admit(context)
        except Exception as error:  # noqa: BLE001 — every error becomes a status
            await statuses.refuse(context, error)


async def _answer_health(_request: bytes, _context: Any) -> bytes:
    data: bytes = python_service_pb2.HealthResponse(status="ok").SerializeToString()
    return data


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """Answers SERVING while a replica answers, for the router and for each service."""

    def __init__(self, probes: Probes) -> None:
        super().__init__()
        self._probes = probes
        self._last: Any = None

    async def update(self) -> None:
        """Set every status according to the present readiness."""
        kinds = health_pb2.HealthCheckResponse
        now = kinds.NOT_SERVING if await self._probes.find_failures() else kinds.SERVING
        if now != self._last:
            self._last = now
            for name in ("", *(service.full_name for service in SERVICES)):
                await self.set(name, now)

    async def keep_updating(self) -> None:
        """Update the status again and again, for clients that watch it."""
        while True:
            await self.update()
            await asyncio.sleep(_HEALTH_SECONDS)

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 — the method's name
        await self.update()
        return await super().Check(request, context)

    def make_handler(self) -> Any:
        """Make the handler of both methods."""
        request, response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        parse, render = request.FromString, response.SerializeToString
        return grpc.method_handlers_generic_handler(
            health.SERVICE_NAME,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self.Check, parse, render),
                "Watch": grpc.unary_stream_rpc_method_handler(self.Watch, parse, render),
            },
        )


class RpcServer:
    """Serves the gRPC port."""

    def __init__(
        self,
        settings: RouterSettings,
        guard: TokenGuard,
        replicas: Replicas,
        loads: Loads,
        activity: Activity,
        probes: Probes,
    ) -> None:
        self._settings = settings
        self._channels = Channels(replicas)
        entrance = Entrance(guard, read_proxies(settings))
        forwarding = Forwarding(replicas, self._channels, loads, activity, entrance)
        self._streams = SessionStreams(replicas, self._channels, loads, activity, entrance, forwarding)
        self._routes = Routes(entrance, forwarding, self._streams)
        self._health = Health(probes)

    async def start(self) -> None:
        """Listen.

        Raises:
            Conflict: the port is taken.
            InvalidRequest: the files of TLS cannot be used.
        """
        settings = self._settings
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.keepalive_time_ms", int(settings.keepalive * 1000)),
            ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", _PING_SECONDS * 1000),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", _PING_SECONDS * 1000),
            ("grpc.max_concurrent_streams", settings.max_calls),
            ("grpc.server_handshake_timeout_ms", int(settings.accept_timeout * 1000)),
        ]
        self._server: Any = grpc.aio.server(options=options, maximum_concurrent_rpcs=settings.max_calls)
        self._server.add_generic_rpc_handlers((self._health.make_handler(), self._routes))
        address = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
        try:
            if settings.tls_files is None:
                port = self._server.add_insecure_port(address)
            else:
                credentials = Certificates(settings.tls_files, grpc).create_credentials()
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise Conflict(f"{address} cannot be listened on: {error}") from None
        await self._server.start()
        self._updating = asyncio.ensure_future(self._health.keep_updating())
        log.info("gRPC on port %d", port)

    async def close(self) -> None:
        """Answer the running calls, within the grace, then close everything."""
        self._updating.cancel()
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.ensure_future(self._server.stop(self._settings.grace))
        self._streams.end()
        await stopping
        await self._channels.close()
