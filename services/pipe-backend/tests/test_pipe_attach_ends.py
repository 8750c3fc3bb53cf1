"""How calls of direct clients end: by interrupts and deadlines, with a process, with a client, by user code."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import PipedClient, Server, Start, attach, info, metric, until, until_running, value  # type: ignore[import-not-found]

pytestmark = pytest.mark.usefixtures("carrier")
LOOPS = "import time\nwhile True:\n    time.sleep(0.01)"
DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"


def waits_for(path: Path) -> str:
    return f"import os, time\nwhile not os.path.exists({str(path)!r}): time.sleep(0.01)\n"


@pytest.fixture(scope="module")
def hasty(start: Start) -> Iterator[Server]:
    """A server whose calls have little time."""
    with start(worker=True, VENVD_DEFAULT_TIMEOUT="0.3") as server:
        yield server


@pytest.fixture(scope="module")
def keeping(start: Start) -> Iterator[Server]:
    """A server whose calls go on when their client has gone."""
    with start(worker=True, VENVD_CANCEL_ON_DISCONNECT="0") as server:
        yield server


@contextlib.contextmanager
def session_of(server: Server) -> Iterator[str]:
    """A session of the test's own, on a server that is not the shared one."""
    name, client = f"s{secrets.token_hex(4)}", server.connect()
    assert "result" in client("session.create", {"name": name})
    yield name
    client("session.delete", {"id": name})


# ---- stopping --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_interrupts(server: Server, session: str) -> None:
    """`session.interrupt` over another connection stops a direct call; the state is kept."""
    direct = attach(server, session)
    direct("exec", {"code": "kept = 1"})
    direct.send("exec", {"code": LOOPS}, id=3)
    other = until_running(server, session)
    assert other("ping") == {"result": {"status": "ok"}}
    assert other("session.interrupt", {"id": session})["result"] == {"success": True}
    reply = direct.receive()
    assert (reply["id"], reply["code"], reply.get("stateLost")) == (3, "cancelled", None)
    assert value(direct, "kept") == 1


def test_deadlines(server: Server, session: str) -> None:
    """A direct call has its own deadline, and the state survives it."""
    direct = attach(server, session)
    direct("exec", {"code": "kept = 1"})
    reply = direct("exec", {"code": LOOPS}, timeout=0.2)
    assert reply["code"] == "timeout"
    assert value(direct, "kept") == 1


def test_a_timeout_longer_than_floats(server: Server, session: str) -> None:
    """A timeout beyond the range of floats is accepted."""
    assert value(attach(server, session), "1", timeout=10**400) == 1


@pytest.mark.slow
def test_the_default_deadline(hasty: Server) -> None:
    """Where a direct call names no timeout, the backend's counts."""
    with session_of(hasty) as session:
        assert attach(hasty, session)("exec", {"code": LOOPS})["code"] == "timeout"


HANGS = "import time\nclass Hangs:\n    def __del__(self): time.sleep(600)"


@pytest.mark.slow
def test_a_session_that_hangs_without_a_call(start: Start) -> None:
    """One that hears nothing although it runs no call is ended after the default deadline, and serves again."""
    with start(worker=True, VENVD_DEFAULT_TIMEOUT="1") as server:
        direct, idle = attach(server), attach(server)
        direct("exec", {"code": HANGS})
        direct("eval", {"expression": "Hangs()"}, lease=0.1)
        time.sleep(0.3)
        direct.send("eval", {"expression": "1"})
        assert direct.closed()
        assert idle.closed()
        assert value(attach(server), "'Hangs' in globals()") is False


@pytest.mark.slow
def test_an_idle_session_is_not_ended(hasty: Server) -> None:
    """A session keeps its state however long its direct clients say nothing."""
    with session_of(hasty) as session:
        direct = attach(hasty, session)
        direct("exec", {"code": "kept = 1"})
        time.sleep(1.5)
        assert value(direct, "kept") == 1


@pytest.mark.slow
def test_what_will_not_stop_is_killed(server: Server, session: str) -> None:
    """Code that goes on after its deadline is killed; the answer says that the state is lost, nothing follows it."""
    direct, waiting = attach(server, session), attach(server, session)
    code = "import time\nwhile True:\n    try:\n        time.sleep(10)\n    except BaseException:\n        pass"
    reply = direct("exec", {"code": code}, id="mine", timeout=0.2)
    assert (reply["id"], reply["code"], reply["stateLost"]) == ("mine", "timeout", True)
    assert direct.closed()
    assert waiting.closed()
    assert value(attach(server, session), "'kept' in globals()") is False


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (DIES, "SIGSEGV"),
        ("import os; os._exit(3)", "status 3"),
        ("import os; os.closerange(3, 65536)", "closed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    ],
)
def test_the_process_dies(server: Server, session: str, code: str, how: str) -> None:
    """The server answers for a session that cannot: how it ended, and that the state is lost; nothing follows that."""
    direct, idle = attach(server, session), attach(server, session)
    reply = direct("exec", {"code": code}, id=9)
    assert (reply["id"], reply["code"], reply["stateLost"]) == (9, "session_lost", True)
    assert how in reply["error"]
    assert direct.closed()
    assert idle.closed()
    assert value(attach(server, session), "1") == 1


@pytest.mark.parametrize("command", ["session.reset", "session.delete"])
def test_reset_and_delete(server: Server, command: str) -> None:
    """Both answer the running direct call with `session_lost` and end the session's direct connections."""
    name = f"s{secrets.token_hex(4)}"
    server.connect()("session.create", {"name": name})
    direct = attach(server, name)
    direct.send("exec", {"code": LOOPS}, id=1)
    other = until_running(server, name)
    assert "result" in other(command, {"id": name})
    reply = direct.receive()
    assert (reply["id"], reply["code"], reply["stateLost"]) == (1, "session_lost", True)
    assert direct.closed()
    other("session.delete", {"id": name})


def test_a_client_that_goes_away(server: Server, session: str, tmp_path: Path) -> None:
    """Its running call is interrupted, what it had sent behind that is not begun, and the state is kept."""
    direct, other = attach(server, session), server.connect()
    direct("exec", {"code": "runs = 0"})
    direct.send("exec", {"code": f"runs += 1\nimport os\nos.mkdir({str(tmp_path / 'began')!r})\n" + LOOPS})
    direct.send("exec", {"code": "runs += 1"})
    until((tmp_path / "began").exists, "the call does not run")
    direct.close()
    assert value(other, "runs", session=session) == 1
    assert info(other, session)["restarts"] == 0


def test_a_client_that_goes_away_before_its_turn(server: Server, session: str, tmp_path: Path) -> None:
    """A call that waits behind another's is not begun once its client has gone."""
    first, second, other = attach(server, session), attach(server, session), server.connect()
    first.send("eval", {"expression": waits_for(tmp_path / "go") + "None"})
    until_running(server, session)
    second.send("exec", {"code": "begun = True"})
    second.close()
    (tmp_path / "go").touch()
    assert first.receive()["result"] == {"value": None}
    assert value(other, "'begun' in globals()", session=session) is False


@pytest.mark.slow
def test_going_away_may_cancel_nothing(keeping: Server, tmp_path: Path) -> None:
    """With the setting off a call goes on when its client has gone."""
    with session_of(keeping) as session:
        direct, other = attach(keeping, session), keeping.connect()
        direct.send("exec", {"code": waits_for(tmp_path / "go") + "ended = True"})
        direct.send("exec", {"code": "also = True"})
        until_running(keeping, session)
        direct.close()
        (tmp_path / "go").touch()
        ended = "{'ended', 'also'} <= set(globals())"
        until(lambda: value(other, ended, session=session), "the calls did not go on")


@pytest.mark.slow
def test_calls_of_a_client_that_read_nothing_and_went_are_run(keeping: Server) -> None:
    """With the setting off, replies that wait for a client that has gone hold up nothing that comes from it."""
    with session_of(keeping) as session:
        left, other = attach(keeping, session, by="pipes"), keeping.connect()
        assert isinstance(left, PipedClient)
        left.send("eval", {"expression": "'x' * 200_000"})
        until(lambda: value(other, "1", session=session) == 1, "the session is held up")
        left.lines.close()
        left.words.close()
        left.socket.close()
        time.sleep(0.2)
        left.send("exec", {"code": "ran = True"})
        until(lambda: value(other, "'ran' in globals()", session=session), "the call was not run")


# ---- user code -------------------------------------------------------------------------------------------------


def test_a_fork_never_answers(server: Server, session: str) -> None:
    """A forked child that comes back to where the session would answer ends instead."""
    direct = attach(server, session)
    code = "import os\nchild = os.fork()\nif child: os.waitpid(child, 0)\nbool(child)"
    assert [value(direct, code, id=n) for n in range(3)] == [True] * 3
    assert value(direct, "'once'") == "once"


def test_a_fork_holds_no_connection(server: Server, session: str) -> None:
    """A child in the background keeps no direct connection open."""
    direct, other = attach(server, session), server.connect()
    code = "import os, time\nif not os.fork():\n    time.sleep(60)\n    os._exit(0)"
    assert direct("exec", {"code": code})["result"]["error"] is None
    assert "result" in other("session.reset", {"id": session})
    assert direct.closed()


def test_closing_one_descriptor_hurts_no_other_session(server: Server, session: str) -> None:
    """Code that closes what it finds loses its own session; another one's direct client notices nothing."""
    witness = attach(server)
    direct = attach(server, session)
    code = """
import os
for name in os.listdir('/proc/self/fd'):
    try:
        if os.readlink('/proc/self/fd/' + name).startswith(('socket', 'pipe')): os.close(int(name))
    except OSError: pass
"""
    assert direct("exec", {"code": code})["code"] == "session_lost"
    assert value(witness, "1") == 1


def test_patched_modules(server: Server, session: str) -> None:
    """Code that patches what we use of the standard library changes no answer."""
    direct = attach(server, session)
    code = "import json, socket, select, struct\nfor m in (json, socket, select, struct):\n"
    code += "    for n in list(vars(m)):\n        if callable(getattr(m, n)): setattr(m, n, None)"
    assert direct("exec", {"code": code})["result"]["error"] is None
    assert [value(direct, "1 + 1", id=n) for n in range(3)] == [2] * 3


# ---- what is told of it ----------------------------------------------------------------------------------------


def test_it_counts(server: Server, session: str) -> None:
    """Direct calls and bytes are in the session's information and in the metrics."""
    names = ('venvd_direct_requests_total{outcome="ok"}', 'venvd_direct_requests_total{outcome="error"}')
    before = [metric(server, name) for name in names]
    sent = metric(server, "venvd_direct_response_bytes_total")
    direct, other = attach(server, session), server.connect()
    direct("eval", {"expression": "'x' * 1000"})
    direct("eval", {"expression": "1 / 0"})
    assert direct("eval", {"expression": "object()"})["result"]["isHandle"]
    assert (info(other, session)["calls"], info(other, session)["handles"]) == (3, 1)
    assert [metric(server, name) for name in names] == [before[0] + 2, before[1] + 1]
    assert metric(server, "venvd_direct_response_bytes_total") > sent + 1000


@pytest.mark.slow
def test_idle_sessions(server: Server) -> None:
    """Direct calls keep a session; without any it ends, and its direct connections with it."""
    other = server.connect()
    name = f"s{secrets.token_hex(4)}"  # a name is free again only when the whole tree behind it is gone
    other("session.create", {"name": name, "idleTimeout": 2.0})
    direct = attach(server, name)
    end = time.monotonic() + 3.5
    while time.monotonic() < end:
        assert value(direct, "__import__('time').sleep(0.2) or 1") == 1
    assert direct.closed()
    assert other("session.get", {"id": name})["code"] == "not_found"


@pytest.mark.slow
def test_nothing_is_left(server: Server, session: str) -> None:
    """Neither server nor session keeps descriptors of direct clients that have gone."""
    other = server.connect()
    attach(server, session).close()
    count = "len(__import__('os').listdir('/proc/self/fd'))"
    held, kept = server.descriptors(), value(other, count, session=session)
    for _ in range(100):
        direct = attach(server, session)
        assert value(direct, "1") == 1
        direct.close()
    until(lambda: server.descriptors() <= held, "the server keeps descriptors")
    until(lambda: value(other, count, session=session) <= kept, "the session keeps descriptors")


def test_a_session_without_room(server: Server) -> None:
    """A session whose limit on open files is reached takes no further connection, says so, and goes on."""
    other = server.connect()
    other("session.create", {"name": "narrow", "limits": {"openFiles": 48}})
    clients = []
    refused = {}
    while not refused:
        clients.append(attach(server, "narrow", by="socket"))
        with contextlib.suppress(BrokenPipeError):
            clients[-1].send("eval", {"expression": "1"})
        reply = clients[-1].receive()
        refused = reply if "error" in reply else {}
    assert refused["code"] == "limit_exceeded"
    assert "open files" in refused["error"]
    assert clients[-1].closed()
    assert value(clients[0], "2") == 2
    other("session.delete", {"id": "narrow"})
