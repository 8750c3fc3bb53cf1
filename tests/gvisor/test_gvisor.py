"""Every kind of command with a worker host under gVisor. `make test-gvisor` runs the whole suites there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
from harness.callers import Caller
from harness.filers import filer
from harness.stack import fetch

from venvd_contract.errors import Cancelled, DeadlineExceeded, InvalidRequest, LimitExceeded, SessionLost, VenvdError

pytestmark = pytest.mark.docker


@pytest.fixture
def session(call: Caller) -> Iterator[str]:
    made = str(call("session.create", {})["id"])
    yield made
    call("session.delete", {"id": made})


def test_the_server_tells_the_walls(call: Caller) -> None:
    """The metric says that there is no Landlock, that system calls are filtered, and whose kernel it is."""
    running = call.running
    status, body = fetch(running.record.probe_url, "/metrics", running.token)
    assert status == 200
    (line,) = [line for line in body.decode().splitlines() if line.startswith("venvd_session_walls_info")]
    assert 'landlock="0"' in line
    assert 'call_filter="on"' in line
    assert "gvisor" in line


def test_code_objects_and_output(call: Caller, session: str) -> None:
    """Values, handles and what code prints come back; the zygote serves the session."""
    assert call("eval", {"expression": "6 * 7"}, session=session) == {"value": 42}
    handle = call("import", {"moduleName": "fractions"}, session=session)["handleId"]
    made = call("create", {"moduleHandleId": handle, "className": "Fraction", "args": [1, 3]}, session=session)
    assert call("getattr", {"handleId": made["handleId"], "attributeName": "denominator"}, session=session) == {
        "value": 3
    }
    output = call("exec", {"code": "import subprocess\nprint(subprocess.run(['echo', 'child']))"}, session=session)
    assert output["error"] is None
    assert "returncode=0" in output["stdout"]


def test_a_session_with_threads_lives_on(call: Caller, session: str) -> None:
    """The warden takes no thread for a process that was left: gVisor lists threads among the children."""
    code = """
import threading, time
threads = [threading.Thread(target=time.sleep, args=(2.5,)) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    assert call("exec", {"code": code}, session=session)["error"] is None
    assert call("eval", {"expression": "len(threads)"}, session=session) == {"value": 3}


def test_a_deadline_and_an_interrupt_leave_the_state(call: Caller, session: str) -> None:
    """A call that exceeds its time and one that is cancelled end; the session keeps what it has."""
    call("eval", {"expression": "kept = 1"}, session=session)
    with pytest.raises(DeadlineExceeded):
        call("eval", {"expression": "import time\nwhile True: time.sleep(0.01)"}, session=session, timeout=0.3)
    waits = {"command": "exec", "payload": {"code": "import time\nstarted = True\ntime.sleep(600)"}}
    identity = call("call.start", waits, session=session)["id"]
    call("cancel", {"id": identity})
    assert call("call.get", {"id": identity, "wait": 30})["state"] == "cancelled"
    assert call("eval", {"expression": "kept"}, session=session) == {"value": 1}


def test_code_that_will_not_stop_is_killed(call: Caller, session: str) -> None:
    """Code that ignores the interrupt is killed with its children, and its client is told."""
    code = "import os, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nos.fork()\nwhile True: pass"
    with pytest.raises(VenvdError) as ended:
        call("exec", {"code": code}, session=session, timeout=0.3)
    assert isinstance(ended.value, DeadlineExceeded | Cancelled)
    assert ended.value.state_lost
    assert call("eval", {"expression": "'code' in globals()"}, session=session) == {"value": False}


def test_a_session_that_dies_tells_its_client(call: Caller, session: str) -> None:
    """The call that ran is answered with how the process ended, also to a direct client."""
    with pytest.raises(SessionLost, match="status 3"):
        call("exec", {"code": "import os; os._exit(3)"}, session=session)
    assert call("eval", {"expression": "1"}, session=session) == {"value": 1}


def test_memory_over_the_limit_is_told(call: Caller) -> None:
    """The limit of a session holds, and is named."""
    made = call("session.create", {"limits": {"memoryBytes": 64 << 20}})["id"]
    with pytest.raises((LimitExceeded, SessionLost), match="memory"):
        call("eval", {"expression": "len(bytearray(512 << 20))"}, session=made)
    call("session.delete", {"id": made})


def test_files_come_and_go_and_links_lead_nowhere(call: Caller, session: str) -> None:
    """A file arrives and comes back; a link to a directory is not walked through."""
    with contextlib.closing(filer(call, call.running, session)) as files:
        files.put("inner/data", bytes(range(256)) * 1000)
        assert files.get("inner/data") == bytes(range(256)) * 1000
        call("eval", {"expression": "import os\nos.symlink('/etc', 'link')"}, session=session)
        with pytest.raises(InvalidRequest, match="link"):
            files.get("link/passwd")
    assert [file["path"] for file in call("file.list", {}, session=session)["files"]] == ["inner", "link"]


def test_a_session_reaches_itself_and_nothing_else(call: Caller, session: str) -> None:
    """Without `network` the worker host has a loopback of its own, and no other interface."""
    code = """
from multiprocessing.managers import BaseManager
import socket
manager = BaseManager(('127.0.0.1', 0), b'key')
manager.start()
address = manager.address
BaseManager(address, b'key').connect()
manager.shutdown()
[address[0], [name for _, name in socket.if_nameindex()]]
"""
    assert call("eval", {"expression": code}, session=session) == {"value": ["127.0.0.1", ["lo"]]}


def test_sessions_run_at_once(call: Caller) -> None:
    """Each session is the first process of a namespace of its own, and one that is busy holds up no other."""
    names = [str(call("session.create", {})["id"]) for _ in range(3)]
    clients = [call.fresh() for _ in names]
    places: list[tuple[int, str]] = []

    def ask(client: Caller, name: str) -> None:
        code = "import os, time\ntime.sleep(0.2)\n[os.getpid(), os.getcwd()]"
        number, place = client("eval", {"expression": code}, session=name)["value"]
        places.append((number, place))

    threads = [threading.Thread(target=ask, args=pair) for pair in zip(clients, names, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [number for number, _ in places] == [1, 1, 1]
    assert len(set(places)) == len(names)
    for client, name in zip(clients, names, strict=True):
        client.close()
        call("session.delete", {"id": name})
