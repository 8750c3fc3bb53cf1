"""Sessions that are forked: from what, into what, and what becomes of them when their zygote is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PARENT = "import os; os.getppid()"
MOST_COPIED = 3600
"""Kilobytes that a new session has for itself on each CPython; without the zygote's preparations it is a half more."""
COUNTED = """
import os, random
with open({log!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
loaded = object()
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory of packages: `counted` notes each process that imports it."""
    made = tmp_path / "site"
    made.mkdir()
    (tmp_path / "imported").touch()
    (made / "counted.py").write_text(COUNTED.format(log=str(tmp_path / "imported")))
    (made / "broken.py").write_text("raise RuntimeError('no good')\n")
    (made / "leaves.py").write_text("raise SystemExit(3)\n")
    (made / "crashes.py").write_text("import os\nos.abort()\n")
    (made / "odd.py").write_text("raise RuntimeError('half a character: \\ud800')\n")
    (made / "endless.py").write_text("import time\ntime.sleep(600)\n")
    (made / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
    )
    (made / "shared.py").write_text("import random, tempfile, uuid\nhere = tempfile.gettempdir()\nrandom.random()\n")
    return made


@pytest.fixture
def preloading(new_host: Callable[..., Any], site: Path) -> Callable[..., Any]:
    """Starts a warden that preloads modules of `site`."""

    def start(*modules: str, options: tuple[str, ...] = (), **env: str) -> Any:
        preload = [word for name in modules for word in ("--preload", name)]
        return new_host("--site", str(site), "--write", str(site.parent / "imported"), *preload, *options, **env)

    return start


def settled(host: Any) -> dict[str, Any]:
    """What the warden says of the zygote, once that is prepared or given up."""
    if host.hello["zygote"]["state"] != "starting":
        return dict(host.hello["zygote"])
    return dict(host.event(lambda event: event["event"] == "zygote"))


def named(host: Any, name: str) -> list[int]:
    """The warden's children that are called `name`."""
    modules = []
    for pid in Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                modules.append(int(pid))
    return modules


def state_of(pid: int) -> str:
    """As the kernel calls it; X where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def spares(host: Any, tools: Any, count: int = 2) -> list[int]:
    tools.wait_for(lambda: len(named(host, "venvd-spare")) == count)
    return named(host, "venvd-spare")


# ---- forks -----------------------------------------------------------------------------------------------------


def test_preloaded_modules_are_imported_once(preloading: Any, site: Path) -> None:
    """Sessions find the preloaded module there, imported by one process that is none of them."""
    host = preloading("counted")
    sessions = [host.start() for _ in range(5)]
    assert all(session.eval("'counted' in __import__('sys').modules") for session in sessions)
    imported = (site.parent / "imported").read_text().split()
    assert imported == [str(settled(host)["pid"])]
    assert len({session.pid for session in sessions}) == 5


def test_sessions_are_the_wardens_children(preloading: Any) -> None:
    """A forked session's parent is the warden, and it leads a process group and session of its own."""
    host = preloading("counted")
    session = host.start()
    assert session.eval(PARENT) == host.pid
    assert session.eval("[os.getpid(), os.getsid(0), os.getpgid(0)]") == [session.pid] * 3


def test_without_anything_to_preload(new_host: Any) -> None:
    """Sessions are forked even where nothing is preloaded, and the warden says so."""
    host = new_host()
    assert settled(host)["state"] == "ready"
    streams, supplies = socket.socketpair(), socket.socketpair()
    with streams[0], streams[1], supplies[0], supplies[1]:
        descriptors = [streams[1].fileno(), supplies[1].fileno()]
        assert host.request("start", descriptors=descriptors, session="a", slot=0)["forked"] is True


def test_no_zygote_is_a_choice(new_host: Any) -> None:
    """With `--no-zygote` each session is an interpreter of its own."""
    host = new_host("--no-zygote")
    assert host.hello["zygote"]["state"] == "off"
    assert host.start().eval("1 + 1") == 2
    assert not named(host, "venvd-zygote")


def test_a_fork_is_a_session_of_its_own(preloading: Any) -> None:
    """Environment, directory, temporary files and `__main__` are the session's, as after an exec."""
    host = preloading("shared", VENVD_WORKER_ENV='{"OF_VENV": "1"}')
    session = host.start(env={"OF_CLIENT": "2"})
    fresh = host.start(env={"OF_CLIENT": "2", "PYTHONUTF8": "1"})
    for one in (session, fresh):
        assert one.eval("import os, sys, tempfile; [os.environ.get(n) for n in ('OF_VENV', 'OF_CLIENT')]") == ["1", "2"]
        own = Path(one.eval("os.getcwd()")).parent
        assert own.parent == host.work
        assert one.eval("tempfile.gettempdir()") == str(own / "tmp")
        assert one.eval("sys.path[0]") == one.eval("os.getcwd()")
        assert one.eval("__name__") == "__main__"
    names = [set(one.eval("sorted(os.environ)")) for one in (session, fresh)]
    assert names[1] - names[0] == {"PYTHONUTF8"}
    assert not names[0] - names[1]
    shown = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import os; print(sorted(os.environ))'])"
    assert "OPENBLAS" not in session("exec", {"code": shown})["stdout"]


def test_variables_that_come_too_late_for_a_fork(preloading: Any) -> None:
    """A session that asks for a variable which counts at the start of an interpreter gets a fresh one."""
    host = preloading("counted")
    settled(host)
    for name in ("LD_LIBRARY_PATH", "PYTHONHASHSEED", "OMP_NUM_THREADS", "MALLOC_ARENA_MAX", "LC_ALL"):
        session = host.start(env={name: "1"})
        assert session.eval("'counted' in __import__('sys').modules") is False, name


def test_sessions_draw_different_numbers(preloading: Any) -> None:
    """Forks of one process share no random numbers and no names of temporary files."""
    host = preloading("shared")
    drawn = "import random, secrets, tempfile, uuid, ssl\n"
    drawn += "[random.random(), secrets.token_hex(), next(tempfile._get_candidate_names()), str(uuid.uuid4())]"
    numbers = [host.start().eval(drawn) for _ in range(4)]
    for column in zip(*numbers, strict=True):
        assert len(set(column)) == 4


def test_a_fork_has_the_descriptors_of_a_fresh_process(preloading: Any) -> None:
    """Nothing that was opened on the way to a session is left in it."""
    host = preloading("counted")
    settled(host)
    forked, fresh = host.start(), host.start(env={"PYTHONHASHSEED": "1"})
    assert forked.eval("'counted' in __import__('sys').modules")
    assert not fresh.eval("'counted' in __import__('sys').modules")
    count = "len(__import__('os').listdir('/proc/self/fd'))"
    assert forked.eval(count) == fresh.eval(count)


def test_a_fork_keeps_what_it_shares(preloading: Any) -> None:
    """A garbage collection in a session copies next to nothing of what the zygote imported."""
    host = preloading("shared", "asyncio", "unittest.mock", "http.client", "decimal", "xml.dom.minidom")
    session = host.start()
    own = "int(open('/proc/self/smaps_rollup').read().split('Private_Dirty:')[1].split()[0])"
    before = session.eval(own)
    session.eval("import gc; gc.collect() and None")
    assert session.eval(own) - before < 1024


def test_a_fork_copies_few_pages(preloading: Any) -> None:
    """The zygote has warmed up what a session runs, and filled the holes of its heap: a session writes to few pages."""
    host = preloading("shared", "asyncio", "unittest.mock", "http.client", "decimal", "xml.dom.minidom")
    session = host.start()
    own = "int(open('/proc/self/smaps_rollup').read().split('Private_Dirty:')[1].split()[0])"
    assert session.eval(own) < MOST_COPIED


def test_limits_count_from_the_fork(preloading: Any) -> None:
    """The memory that came with the fork does not count against a session's limit."""
    host = preloading("asyncio")
    session = host.start(memoryBytes=64 << 20)
    assert session.eval("held = bytearray(40 << 20); len(held)") == 40 << 20
    with pytest.raises(Exception, match="memoryBytes"):
        session.eval("more = bytearray(80 << 20)")
    assert session.eval("len(held)") == 40 << 20


# ---- what cannot be preloaded ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [("broken", "no good"), ("leaves", "SystemExit"), ("absent", "absent"), ("odd", "half a character: ?")],
)
def test_a_module_that_cannot_be_imported(preloading: Any, name: str, told: str) -> None:
    """The others are preloaded all the same, and the warden says which failed and why."""
    host = preloading(name, "counted")
    report = settled(host)
    assert report["state"] == "ready"
    assert name in report["why"]
    assert told in report["why"]
    assert [(each["module"], bool(each["error"])) for each in report["preload"]] == [(name, True), ("counted", False)]
    assert host.start().eval("'counted' in __import__('sys').modules")


@pytest.mark.parametrize(
    ("name", "told"),
    [("crashes", "SIGABRT"), ("endless", "not done after 1 s"), ("threaded", "threads")],
)
def test_a_zygote_that_is_not_to_be_trusted(preloading: Any, name: str, told: str) -> None:
    """Where it crashes, hangs or cannot be forked, sessions start by exec, and the warden says why."""
    host = preloading(name, options=("--preload-timeout", "1") if name == "endless" else ())
    session = host.start()
    assert session.eval("1 + 1") == 2
    report = settled(host)
    assert report["state"] == "failed"
    assert told in report["why"]
    assert name in report["why"] or name == "threaded"


# ---- ends ------------------------------------------------------------------------------------------------------


def test_a_killed_zygote_takes_no_session_with_it(preloading: Any, tools: Any) -> None:
    """Sessions keep their state, new ones start meanwhile, and there is another zygote soon."""
    host = preloading("counted")
    session = host.start()
    session.eval("kept = 1")
    zygote = settled(host)["pid"]
    os.kill(zygote, signal.SIGKILL)
    assert host.event(lambda event: event["event"] == "zygote")["state"] == "failed"
    assert host.start().eval("1 + 1") == 2
    assert session.eval("kept") == 1
    again = host.event(lambda event: event["event"] == "zygote")
    assert again["state"] == "ready"
    assert again["pid"] not in (None, zygote)
    spares(host, tools)
    later = host.start()
    assert later.eval("__import__('sys').modules['counted'].loaded is not None")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_killed_and_stopped_spares_are_passed_over(preloading: Any, tools: Any, number: int) -> None:
    """A session gets a process that runs, whatever was done to those that waited."""
    host = preloading("counted")
    settled(host)
    for pid in spares(host, tools):
        os.kill(pid, number)
        tools.wait_for(lambda pid=pid: state_of(pid) in "ZTX")
    sessions = [host.start() for _ in range(3)]
    assert [session.eval("1 + 1") for session in sessions] == [2, 2, 2]
    spares(host, tools)


def test_a_stopped_zygote_is_replaced(preloading: Any, tools: Any) -> None:
    """Starts that wait for a zygote which does nothing are served by exec in the end, and there is another."""
    host = preloading("counted")
    zygote = settled(host)["pid"]
    spares(host, tools)
    os.kill(zygote, signal.SIGSTOP)
    sessions = [host.start() for _ in range(3)]
    assert [session.eval("1 + 1") for session in sessions] == [2, 2, 2]
    assert not tools.alive(zygote)
    spares(host, tools)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_everything_ends_with_the_warden(preloading: Any, tools: Any, number: int) -> None:
    """However the warden ends, neither the zygote nor a spare nor a session is left."""
    host = preloading("counted")
    session = host.start()
    session.eval("1")
    pids = [settled(host)["pid"], session.pid, *spares(host, tools)]
    os.kill(host.pid, number)
    host.process.wait(30)
    tools.wait_for(lambda: not any(map(tools.alive, pids)))


def test_spares_are_made_again_and_no_zombie_is_left(preloading: Any, tools: Any) -> None:
    """After many sessions there are as many spares as before, and no process beside them."""
    host = preloading("counted")
    settled(host)
    spares(host, tools)
    for _ in range(30):
        session = host.start()
        assert session.eval("1 + 1") == 2
        host.kill(session)
        session.close()
    spares(host, tools)
    children = Path(f"/proc/{host.pid}/task/{host.pid}/children")
    tools.wait_for(lambda: len(children.read_text().split()) == 3)


def test_many_at_once(preloading: Any, tools: Any) -> None:
    """More sessions than there are spares get a process each, all forked."""
    host = preloading("counted")
    settled(host)
    sessions = [host.start() for _ in range(12)]
    assert len({session.eval("import os; os.getpid()") for session in sessions}) == 12
    assert all(session.eval("'counted' in __import__('sys').modules") for session in sessions)
    spares(host, tools)


def test_spares_hide_what_they_hold(preloading: Any, tools: Any, new_host: Any) -> None:
    """Code of a session that is not root cannot reach into the zygote or a spare; its own process it can look at."""
    host = preloading("counted")
    session = host.start()
    session.eval("import os, ctypes\nlen(os.listdir('/proc/self/fd')) > 0")
    for pid in (settled(host)["pid"], *spares(host, tools)):
        assert os.stat(f"/proc/{pid}/fd").st_uid == 0
    assert session.eval("ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)") == 1
