"""User code that forges messages of its session to the server: over each transport, on both engines.

It finds its session's stream in /proc/self/fd and writes there what no session would.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness.attacks import FINDS_SLOTS, FINDS_STREAM
from harness.callers import CALLERS, Caller
from harness.stack import Stack
from harness.waiting import wait_until

from venvd_contract.errors import DeadlineExceeded, SessionLost, VenvdError

pytestmark = pytest.mark.about("session")

SETTINGS = {
    "VENVD_GRACE": "2",
    "VENVD_SESSION_LIMITS": '{"resultBytes": 1048576, "outputBytes": 65536, "memoryBytes": 536870912}',
}

GARBAGE = {
    "bytes that are no UTF-8": r"say(b'\xff\xfe\x00\n')",
    "noise": r"say(os.urandom(100_000) + b'\n')",
    "a line that is no JSON": r"say('hello\n')",
    "a reply to another request": r"""say('{"id":987654321,"result":{"value":"forged"}}\n')""",
    "replies to many requests": r"""say(''.join('{"id":%d,"result":{}}\n' % n for n in range(1000, 3000)))""",
    "an error for another request": r"""say('{"id":987654321,"error":"forged","code":"unauthenticated"}\n')""",
    "attachments of 2 GB": r"""say('{"id":1,"result":{},"attachments":[2147483648]}\n')""",
    "attachments of no size": r"""say('{"id":1,"result":{},"attachments":[-1]}\n')""",
    "attachments beyond number": r"""say('{"id":1,"result":{},"attachments":[' + '0,' * 100_000 + '0]}\n')""",
    "deep nesting": r"""say('{"id":1,"result":' + '[' * 500_000 + '\n')""",
    "deep nesting that ends": r"""say('{"id":1,"result":' + '[' * 200_000 + ']' * 200_000 + '}\n')""",
    "a number without end": r"""say('{"id":' + '1' * 500_000 + ',"result":{}}\n')""",
    "a line without end": r"""
while True: say(b'x' * 65536)""",
    "lines without end": r"""
while True: say('{"event":"stdout","data":"' + 'x' * 60000 + '"}\n')""",
    "half a line, then its own": r"""say('{"id":1,"result":{"value":"')""",
    "no more writing": r"stream.shutdown(socket.SHUT_WR); time.sleep(60)",
    "no more reading or writing": r"stream.shutdown(socket.SHUT_RDWR); time.sleep(60)",
}


@pytest.fixture(scope="module", params=list(CALLERS))
def caller(engine: Stack, request: pytest.FixtureRequest) -> Iterator[Caller]:
    running = engine.start(request.param, **SETTINGS)
    made = CALLERS[request.param](running.url, running.token)
    made("session.create", {"name": "witness"})
    made("eval", {"expression": "seen = 'unharmed'"}, session="witness")
    yield made
    made.close()
    assert engine.engine.inspect(running.record).running
    engine.stop(running)


@pytest.fixture
def call(caller: Caller) -> Iterator[Caller]:
    """Afterwards the session serves, afresh or not, and the one beside it saw nothing."""
    caller("exec", {"code": "kept = 1\n" + FINDS_STREAM})
    yield caller
    assert caller("eval", {"expression": "6 * 7"}) == {"value": 42}
    assert caller("eval", {"expression": "seen"}, session="witness") == {"value": "unharmed"}
    assert restarts(caller, "witness") == 0


def restarts(call: Caller, session: str = "default") -> int:
    return int(call("session.get", {"id": session})["restarts"])


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_to_the_server(call: Caller, kind: str) -> None:
    """A session tries garbage as its reply: it is replaced, its call fails, and no client gets a forged reply."""
    before = restarts(call)
    with pytest.raises(SessionLost) as caught:
        call("eval", {"expression": GARBAGE[kind]}, timeout=30)
    assert caught.value.state_lost is True
    assert "sent" in caught.value.message or "closed" in caught.value.message
    assert call("eval", {"expression": "'kept' in globals()"}) == {"value": False}
    assert restarts(call) == before + 1


def until_replaced(call: Caller, before: int) -> None:
    wait_until(lambda: restarts(call) > before, "the session is not replaced")


def test_a_forged_reply_to_its_own_call(call: Caller) -> None:
    """A session tries to reply twice to its own call: the first is its own lie, the second ends it."""
    call("exec", {"code": FINDS_SLOTS})
    before = restarts(call)
    forged = """
running = next(at for at in range(0, len(memory), 512) if memory[at + 68] == 2)
number = int.from_bytes(memory[running + 24 : running + 32], "little")
say('{"id":%d,"result":{"value":"forged"}}\\n' % number)
'true'
"""
    assert call("eval", {"expression": forged}) == {"value": "forged"}
    until_replaced(call, before)


@pytest.mark.parametrize("byte", [0x00, 0x01, 0x7F, 0xFF])
def test_scribbles_over_every_slot(call: Caller, byte: int) -> None:
    """A session tries to scribble over the slots of all sessions: calls, deadlines, lists and metrics go on."""
    call("exec", {"code": FINDS_SLOTS + f"memory[:] = bytes([{byte}]) * len(memory)"})
    for session in ("default", "witness"):
        assert call("eval", {"expression": "1 + 1"}, session=session) == {"value": 2}
    listed = {item["id"]: item for item in call("session.list")["sessions"]}
    assert 0 <= listed["witness"]["handles"] <= 2**53
    with pytest.raises(DeadlineExceeded) as caught:
        call("eval", {"expression": "while True: time.sleep(0.01)"}, timeout=0.3)
    assert caught.value.state_lost is False
    assert call("eval", {"expression": "kept"}) == {"value": 1}


def test_scribbles_that_never_end(call: Caller) -> None:
    """A session tries to hide its deadline by nonsense in its slot: it is ended all the same."""
    call("exec", {"code": FINDS_SLOTS})
    with pytest.raises(DeadlineExceeded):
        call("eval", {"expression": "while True: memory[:512] = b'\\xff' * 512"}, timeout=0.3)


WARDEN = {
    "noise": "control.send(os.urandom(1000))",
    "no JSON": "control.send(b'hello')",
    "no object": "control.send(b'[1]')",
    "deep nesting": "control.send(b'[' * 100_000)",
    "commands": """control.send(b'{"command":"kill","session":"witness","id":1,"reason":"x"}')""",
    "a log that is none": """control.send(b'{"log": ["stdout"]}')""",
    "descriptors beyond number": """
ends = os.pipe()
for _ in range(100):
    try:
        socket.send_fds(control, [b'{"log":"stdout"}'], [ends[0]] * 200)
    except OSError:
        break
""",
    "strange descriptors": """
strange = [os.open(path, os.O_RDONLY) for path in ("/", "/dev/zero", "/proc/self/mem")]
socket.send_fds(control, [b'{"log":"stdout"}'], strange)
socket.send_fds(control, [b'{"log":"stdout"}'], [stream.fileno(), control.fileno()])
""",
    "many packets": """
control.setblocking(False)
for _ in range(20_000):
    try:
        control.send(b'{}')
    except BlockingIOError:
        time.sleep(0.001)
""",
    "its end": "control.shutdown(socket.SHUT_RDWR)",
}


@pytest.mark.parametrize("kind", WARDEN)
def test_garbage_to_the_warden(call: Caller, kind: str) -> None:
    """A session tries garbage on the warden's control socket: it ends itself at most."""
    try:
        call("exec", {"code": WARDEN[kind]}, timeout=30)
    except SessionLost:
        return
    assert call("eval", {"expression": "seen"}, session="witness") == {"value": "unharmed"}
    call("session.reset", {"id": "default"})


def test_a_limit_cannot_be_talked_up(call: Caller) -> None:
    """A session tries to raise its limit by saying again that it came up: it gets no more memory."""
    call("session.create", {"name": "greedy", "limits": {"memoryBytes": 200 << 20}})
    hoard = """
import os, subprocess, sys, time
held = b"x" * (120 << 20)
"""
    try:
        call("exec", {"code": hoard + FINDS_STREAM}, session="greedy")
        call("exec", {"code": "control.send(b'{\"ready\":true}'); time.sleep(0.5)"}, session="greedy")
        more = "import time; held = b'x' * (140 << 20); time.sleep(30)"
        with pytest.raises(VenvdError, match="memory"):
            call("exec", {"code": f"subprocess.run([sys.executable, '-c', {more!r}])"}, session="greedy", timeout=20)
    finally:
        call("session.delete", {"id": "greedy"})
