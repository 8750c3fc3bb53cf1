"""gRPC channels to replicas."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from venvd_router.certificates import find_name
from venvd_router.replicas import Address, Replicas

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 60_000),  # servers permit one ping in ten seconds
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_frame_size", 2 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),
)


class Channels:
    """Keeps one channel for each replica."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._channels: dict[Address, Any] = {}
        self._closing: set[asyncio.Task[None]] = set()
        replicas.on_change.append(self._drop_old)

    def get(self, number: int) -> Any:
        """Return the channel to a replica.

        Raises:
            Unavailable: the replica has no address.
        """
        address = self._replicas.get_address(number, http=False)
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = _open(address)
        return channel

    def _drop_old(self) -> None:
        """Close the channels to former addresses of replicas, once their calls have ended."""
        table = self._replicas.table
        current = {self._replicas.find_address(number, http=False) for number in range(len(table.replicas))}
        for address in self._channels.keys() - current:
            task = asyncio.ensure_future(self._channels.pop(address).close(grace=None if address is None else 3600))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()
        for task in self._closing:
            task.cancel()


def _open(address: Address) -> Any:
    host = f"[{address.host}]" if ":" in address.host else address.host
    target = f"{host}:{address.port}"
    if not address.secure:
        return grpc.aio.insecure_channel(target, _OPTIONS)
    options: tuple[tuple[str, Any], ...] = _OPTIONS
    name = find_name(address.certificate) if address.certificate else None
    if name is not None:  # gRPC compares names, and the certificate has the name for clients
        options = (*options, ("grpc.ssl_target_name_override", name))
    trusted = address.certificate.encode() if address.certificate else None
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(trusted), options)
