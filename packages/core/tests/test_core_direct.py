"""Direct clients, where their session or its worker host does not do its part."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from venvd_contract.operations import SessionInfo
from venvd_core.backend import Attachment


def test_a_client_that_is_not_taken_is_told(run: Any, wardens: Any, serve: Any) -> None:
    """A connection that was greeted and not handed over says so: its mere end would mean that the state is lost."""
    wardens.start("full")

    def greeting(info: SessionInfo) -> bytes:
        return info.id.encode() + b"\n"

    async def work() -> None:
        async with serve() as client:
            await client.ready()
            before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
            ours, theirs = socket.socketpair()
            given = Attachment(
                theirs, b"", 1 << 20, 1 << 20, greeting, lambda _, error: json.dumps(error.fields()).encode()
            )
            await client.backend.attach(None, given)
            ours.settimeout(30)
            with ours.makefile("rb") as lines:
                assert lines.readline() == b"default\n"
                assert json.loads(lines.read())["code"] == "unavailable"
            ours.close()
            assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
            assert (await client.do("count"))["count"] == 1

    run(work)
