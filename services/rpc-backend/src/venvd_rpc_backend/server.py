"""The gRPC server: it listens, serves calls and stops."""

from __future__ import annotations

import asyncio
import logging

import grpc

from venvd_contract.errors import Conflict
from venvd_core.backend import Backend
from venvd_http import keys, probes
from venvd_http.controller_connection import read_controller_address
from venvd_http.edge import create_backend_edge, read_limits, read_proxies
from venvd_http.environments import Environments
from venvd_http.grpc_certificates import Certificates
from venvd_http.guesses import Guesses
from venvd_http.listening import listen_tcp
from venvd_http.server import create_server
from venvd_rpc_backend import probes as grpc_probes
from venvd_rpc_backend.arrays import Arrays
from venvd_rpc_backend.calls import Calls
from venvd_rpc_backend.compat import http as old_http
from venvd_rpc_backend.compat import service as old_service
from venvd_rpc_backend.context import PeerGuard
from venvd_rpc_backend.entrance import Entrance
from venvd_rpc_backend.methods import SERVICES
from venvd_rpc_backend.operations import Operations
from venvd_rpc_backend.routes import Routes
from venvd_rpc_backend.settings import RpcSettings
from venvd_rpc_backend.stream import Streams

log = logging.getLogger(__name__)

NAMES = tuple(service.full_name for service in SERVICES)
ENVELOPE = 64 * 1024
"""More bytes than a message has beside its payload, so that core can refuse a payload that is too large."""
PING_INTERVAL = 10
"""Seconds that a client must leave between its pings."""


def channel_options(settings: RpcSettings) -> list[tuple[str, int]]:
    """Return the channel arguments: limits of messages, and pings that find dead peers."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_body + ENVELOPE),
        ("grpc.max_send_message_length", -1),  # results have limits of their own
        ("grpc.keepalive_time_ms", int(settings.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", int(settings.keepalive_timeout * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL * 1000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL * 1000),
        ("grpc.max_concurrent_streams", settings.max_calls),
        ("grpc.server_handshake_timeout_ms", int(settings.accept_timeout * 1000)),
    ]


class RpcServer:
    """Serves a backend over gRPC, and its probes over HTTP, until it is closed."""

    def __init__(self, backend: Backend, settings: RpcSettings) -> None:
        self._backend = backend
        self._settings = settings
        self.port = 0
        self.http_port = 0

    async def start(self) -> None:
        """Listen, and set `port` and `http_port`.

        Raises:
            Conflict: a port is taken.
            InvalidRequest: certificate or key cannot be used.
        """
        settings = self._settings
        listener = listen_tcp(settings.host, settings.http_port)
        self.http_port = listener.getsockname()[1]
        self._server = grpc.aio.server(options=channel_options(settings), maximum_concurrent_rpcs=settings.max_calls)
        guard = PeerGuard(
            settings.token_sha256,
            settings.metrics_token_sha256,
            name=f"backend:{settings.name}",
            guesses=Guesses(settings.max_wrong_tokens),
        )
        guard.proxies = read_proxies(settings)
        guard.on_key_end = self._backend.end_key
        guard.on_refusal = self._backend.refuse_token
        entrance = Entrance(guard, read_limits(settings))
        self._watching_keys = keys.watch(settings.keys_file, guard, self._backend.replicas)
        self._backend.environments = environments = Environments(
            read_controller_address(settings), older=settings.compat
        )
        cancel = settings.cancel_on_disconnect
        calls = Calls(self._backend, guard, cancel_on_disconnect=cancel)
        self._streams = Streams(self._backend, guard, settings)
        arrays = Arrays(self._backend, guard, settings.stall_timeout, cancel=cancel)
        app, names = probes.create_app(self._backend, guard), NAMES
        routes = Routes(SERVICES, entrance, calls, self._streams, arrays, Operations(environments, guard))
        if settings.compat:
            app, names = old_http.Methods(app, self._backend, guard, settings), (*NAMES, old_service.NAME)
            old_calls = old_service.OldCalls(self._backend, guard, cancel_on_disconnect=cancel)
            routes.add(old_service.list_calls(old_calls))
        self._server.add_generic_rpc_handlers((routes,))
        self._health = grpc_probes.add(self._server, self._backend, entrance, names)
        self.port = self._listen()
        await self._health.update()
        await self._server.start()
        self._http = create_server(app, create_backend_edge(settings), stall_timeout=settings.stall_timeout)
        self._serving_http = asyncio.ensure_future(self._http.serve(sockets=[listener]))
        self._watching_connections = asyncio.ensure_future(entrance.watch(self.port))
        self._updating_health = asyncio.ensure_future(self._health.keep_updating())
        log.info("gRPC on port %d, HTTP on port %d", self.port, self.http_port)

    def _listen(self) -> int:
        settings = self._settings
        address = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
        try:
            if settings.tls_files is None:
                return int(self._server.add_insecure_port(address))
            credentials = Certificates(settings.tls_files, grpc).create_credentials()
            return int(self._server.add_secure_port(address, credentials))
        except RuntimeError as error:
            raise Conflict(f"{address} cannot be listened on: {error}") from None

    async def close(self) -> None:
        """Wait up to `drain` seconds for the running calls, then close everything."""
        self._updating_health.cancel()
        self._watching_connections.cancel()
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.ensure_future(self._server.stop(self._settings.drain))
        self._streams.end()
        await stopping
        if self._watching_keys is not None:
            self._watching_keys.cancel()
        self._http.should_exit = True
        await asyncio.wait({self._updating_health, self._watching_connections, self._serving_http})
