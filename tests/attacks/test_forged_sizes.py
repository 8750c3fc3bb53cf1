"""User code that forges replies and events that are small on the wire and large in the server, over each transport."""

from __future__ import annotations

import contextlib
import http.client
import json
from urllib.parse import urlsplit

import grpc
import pytest
from harness.attacks import FINDS_SLOTS, FINDS_STREAM, Target
from harness.measure import MIB, Peak

from venvd_contract.errors import VenvdError
from venvd_proto.v1 import python_service_pb2 as messages
from venvd_proto.v1.python_service_pb2_grpc import PythonServiceStub

MOST_MEMORY = 160 * MIB
"""What a server may hold for one forged message, a few times the bytes that a session may send."""
MOST_OF_MANY = 32 * MIB
"""What it may hold for 100,000 small events: a record of each that it kept would take more."""

NUMBERS = """
running = next(at for at in range(0, len(memory), 512) if memory[at + 68] == 2)
number = int.from_bytes(memory[running + 24 : running + 32], "little")
"""
ANSWERS_THE_NEXT = (
    FINDS_STREAM
    + FINDS_SLOTS
    + NUMBERS
    + """
import select
say('{"id":%d,"result":{"value":"mine"}}\\n' % number)
select.select([stream], [], [])
say(b'{"id":%d,' % (number + 1)); say(FORGED); say(b'}\\n')
select.select([], [], [], 60)
"""
)
HANDLE = {"handleId": "a"}
REPLIES = {
    "45 MB of handles": ("handles", {}, """b'"result":{"handles":[' + b'{},' * 15_000_000 + b'{}]}'"""),
    "20 MB of displays": ("exec", {"code": "1"}, """b'"result":{"display":[' + b'{},' * 6_500_000 + b'{}]}'"""),
    "20 MB of fields": (
        "eval", {"expression": "1"}, """b'"result":{' + b','.join(b'"%x":0' % n for n in range(1_900_000)) + b'}'"""
    ),
    "20 MB of numbers": ("tofloatarray", HANDLE, """b'"result":[' + b'0.1,' * 5_000_000 + b'1]'"""),
    "8 MB of rows": ("tofloatarray2d", HANDLE, """b'"result":[' + b'[],' * 2_600_000 + b'[1]]'"""),
    "20 MB of attachments": ("ping", {}, """b'"result":{},"attachments":[' + b'0,' * 10_000_000 + b'1]'"""),
    "20 MB of traceback": (
        "eval", {"expression": "1"},
        """'"error":"x","code":"user_error","traceback":"\U0001f40d'.encode() + b'x' * 20_000_000 + b'"'""",
    ),
    "20 MB of text": (
        "exec", {"code": "1"}, """'"result":{"result":null,"stdout":"\U0001f40d'.encode() + b'x' * 20_000_000 + b'"}'"""
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.about("session")
@pytest.mark.parametrize("forged", REPLIES)
def test_replies_that_grow(target: Target, forged: str) -> None:
    """A session tries to fill its server by a reply of many small parts: the server holds little of it, and serves."""
    command, payload, reply = REPLIES[forged]
    with target.session() as name, target.caller() as call:
        peak = Peak(target.parts.server)
        code = ANSWERS_THE_NEXT.replace("FORGED", reply)
        assert call("eval", {"expression": code}, session=name) == {"value": "mine"}
        with contextlib.suppress(VenvdError):
            call("eval" if command == "ping" else command, payload or {"expression": "1"}, session=name)
        assert peak.read() < MOST_MEMORY
    target.serves()


EVENTS = {
    "one of 55 MB": """say(b'{"id":%d,"event":"stdout","data":"' % number); say(b'x' * 55_000_000); say(b'"}\\n')""",
    "one of 20 MB, wide": (
        """say('{"id":%d,"event":"stdout","data":"\U0001f40d' % number); say(b'x' * 20_000_000); say(b'"}\\n')"""
    ),
    "one of 20 MB, displayed": (
        """say(b'{"id":%d,"event":"display","data":[' % number); say(b'{},' * 6_500_000); say(b'1]}\\n')"""
    ),
    "many of a byte": """line = b'{"id":%d,"event":"stdout","data":"x"}\\n' % number
for _ in range(100): say(line * 1_000)""",
    "many of none": """line = b'{"id":%d,"event":"stdout","data":""}\\n' % number
for _ in range(100): say(line * 1_000)""",
    "many of no call": """line = b'{"id":987654321,"event":"stdout","data":""}\\n'
for _ in range(100): say(line * 1_000)""",
}


@pytest.mark.slow
@pytest.mark.about("session")
@pytest.mark.parametrize("forged", EVENTS)
def test_events_that_grow(target: Target, forged: str) -> None:
    """A session tries to fill its server by forged events: the server passes them on as they are, and serves."""
    with target.session() as name:
        peak = Peak(target.parts.server)
        stream_exec(target, FINDS_STREAM + FINDS_SLOTS + NUMBERS + EVENTS[forged], name)
        assert peak.read() < (MOST_OF_MANY if forged.startswith("many") else MOST_MEMORY)
    target.serves()


def stream_exec(target: Target, code: str, session: str) -> None:
    """Run code and read its events to their end."""
    url, token = target.running.url, target.running.token
    if target.kind == "http":
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        head = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream", "X-Venvd-Session": session}
        connection.request("POST", "/api/exec", json.dumps({"code": code}), head)
        response = connection.getresponse()
        while response.read(1 << 20):
            pass
        connection.close()
    elif target.kind == "pipe":
        request = {"command": "exec", "payload": {"code": code}, "session": session, "stream": True, "token": token}
        with target.main.open() as raw:
            raw.send(json.dumps(request).encode() + b"\n")
            raw.finish()
            raw.rest()
    else:
        options = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(url.removeprefix("grpc://"), options=options) as channel:
            metadata = [("authorization", f"Bearer {token}"), ("x-venvd-session", session)]
            with contextlib.suppress(grpc.RpcError):
                for _ in PythonServiceStub(channel).Execute(messages.ExecuteRequest(code=code), metadata=metadata):
                    pass
