"""The connection to the warden: what is sent over it, however long that takes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

from venvd_contract.internal import SECRET, SOCKET
from venvd_contract.internal.messages import GetStats, Kill
from venvd_core.link import Link


def test_a_descriptor_that_waits_is_kept(run: Any) -> None:
    """While a warden reads nothing, a caller may close its descriptor: the right one is still sent later."""

    async def work() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        link = Link(ours, asyncio.get_running_loop(), None, lambda _: None)  # type: ignore[arg-type]
        for _ in range(64):  # more than the kernel takes
            link.send(Kill("x" * 16384))
        passed = os.memfd_create("passed")
        inode = os.fstat(passed).st_ino
        request = asyncio.ensure_future(link.request(GetStats(), descriptors=[passed]))
        await asyncio.sleep(0)
        request.cancel()
        await asyncio.wait([request])
        os.close(passed)
        for _ in range(64):
            await asyncio.to_thread(theirs.recv, 1 << 16)
        packet, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, theirs, 1 << 16, 4)
        assert b"stats" in packet
        assert os.fstat(descriptors[0]).st_ino == inode
        os.close(descriptors[0])
        link.drop("over")
        theirs.close()

    run(work)


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(20)
    sock.connect(str(path))
    return sock


def test_only_the_secret_makes_a_warden(run: Any, wardens: Any, serve: Any, channel: Path) -> None:
    """Who does not know the secret is hung up on, and the warden that does is served all the same."""

    async def work() -> None:
        async with serve() as client:
            for packet in (b"", b"{}", b"[" * 10_000, b'{"event":"join","data":{"secret":"guess"}}'):
                with connected(channel / SOCKET) as liar:
                    if packet:
                        liar.send(packet)
                        assert await asyncio.to_thread(liar.recv, 100) == b""
            wardens.start()
            await client.ready()

    run(work)


def test_silent_connections_do_not_keep_the_warden_out(run: Any, serve: Any, channel: Path) -> None:
    """A few connections may wait for their first packet; the secret is still taken, and ends the others."""

    async def work() -> None:
        async with serve():
            silent = [connected(channel / SOCKET) for _ in range(4)]
            with connected(channel / SOCKET) as warden:
                secret = (channel / SECRET).read_text()
                warden.send(json.dumps({"event": "join", "data": {"secret": secret}}).encode())
                hello, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, warden, 1 << 16, 4)
                assert json.loads(hello)["command"] == "hello"
                os.close(descriptors[0])
                for sock in silent:
                    assert await asyncio.to_thread(sock.recv, 100) == b""
                    sock.close()
                assert os.listdir(channel) == ["taken"]  # noqa: PTH208

    run(work)


def test_files_of_the_channel_are_for_the_group(run: Any, serve: Any, channel: Path) -> None:
    """Socket and secret can be used by the directory's group whatever the umask; a stale socket is no obstacle."""

    async def work() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
            left.bind(str(channel / SOCKET))
        before = os.umask(0o077)
        try:
            async with serve():
                modes = {name: stat.S_IMODE((channel / name).stat().st_mode) for name in (SOCKET, SECRET)}
                assert modes == {SOCKET: 0o660, SECRET: 0o640}
        finally:
            os.umask(before)
        assert os.listdir(channel) == []  # noqa: PTH208

    run(work)
