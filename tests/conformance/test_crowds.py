"""Many calls at once for one session: none is refused, and each gets its own answer."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from harness.callers import AttachCaller, Caller, HttpCaller
from harness.rpc import RpcCaller
from harness.waiting import wait_until

from venvd_contract.errors import Cancelled

pytestmark = pytest.mark.about("everywhere")

CROWD = 500
LONG = {"expression": "__import__('time').sleep(600)"}


@pytest.fixture(scope="module", autouse=True)
def _descriptors() -> Iterator[None]:
    """Let this process open hundreds of connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def session(call: Caller) -> Iterator[str]:
    made = call("session.create", {})
    yield made["id"]
    call("session.delete", {"id": made["id"]})


@pytest.mark.long
@pytest.mark.parametrize("connections", [CROWD, 1])
def test_a_crowd_waits_its_turn(call: Caller, session: str, connections: int) -> None:
    """Five hundred calls that come while one runs are all answered; on connections of their own, and on one."""
    if isinstance(call, HttpCaller):
        connections = CROWD  # a client of HTTP/1.1 has one request on a connection
    elif isinstance(call, RpcCaller):
        connections = 1  # calls of one channel are streams of one connection
    direct = isinstance(call, AttachCaller)
    with ExitStack() as ends:
        clients: list[Any] = []
        for _ in range(connections):
            clients.append(call.attached(session) if direct else call.fresh())
            ends.callback(clients[-1].close)
        hold = threading.Thread(target=_hold, args=(call.fresh(), session))
        hold.start()
        ends.callback(hold.join)
        ends.callback(call, "session.interrupt", {"id": session})
        wait_until(lambda: call("session.get", {"id": session})["state"] == "busy", "no call runs")
        payloads = [{"expression": f"{number} * 2"} for number in range(CROWD)]
        for number, client in enumerate(clients):
            client.send("eval", payloads[number::connections], session)
        if not direct:  # those of direct clients wait in their sockets, and the server does not count them
            wait_until(lambda: call("session.get", {"id": session})["queued"] == CROWD, "the calls do not wait")
        call("session.interrupt", {"id": session})
        for number in range(CROWD):
            assert clients[number % connections].receive() == {"value": number * 2}


def _hold(client: Caller, session: str) -> None:
    """Keep a session busy until it is interrupted."""
    with closing(client), pytest.raises(Cancelled):
        client("eval", LONG, session=session)
