"""The connection to the warden: what is sent over it, however long that takes."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from venvd_contract.internal.messages import GetStats, Kill
from venvd_core.channel import Link


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
