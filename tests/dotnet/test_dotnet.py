"""A venv with `dotnet`: .NET objects behind handles, over every transport and on both engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.controller import Controller

import venvd

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.needs("mcs")]

Connect = Callable[[str], venvd.Backend]
NAMESPACE = "Example.Environments"


@pytest.fixture(params=["http", "pipe", "rpc"])
def session(connect: Connect, request: pytest.FixtureRequest) -> Iterator[venvd.Session]:
    """A session of its own, over each transport in turn."""
    with connect(request.param).sessions.create() as made:
        yield made


@pytest.fixture
def http_session(connect: Connect) -> Iterator[venvd.Session]:
    with connect("http").sessions.create() as made:
        yield made


def make_manager(session: venvd.Session, root: str = "/srv") -> venvd.RemoteObject:
    session.import_module("clr")
    return session.create(session.import_module(NAMESPACE), "VenvManager", root)


def test_net_objects_behind_handles(session: venvd.Session) -> None:
    """Import, create, call, get and set attributes, evaluate with an object, and pass a function of Python's."""
    manager = make_manager(session)
    assert manager.Create("science") == "/srv/science"
    assert manager.Count == 1
    manager.Root = "/elsewhere"
    assert manager.Create("data") == "/elsewhere/data"
    assert session.eval("list(manager.Names())", manager=manager) == ["science", "data"]
    assert session.eval(
        "from System import Func, String, Int32\nmanager.Apply(Func[String, Int32](len))", manager=manager
    ) == len("/elsewhere")
    assert session.module_available("System.Collections.Generic")


def test_net_exceptions_are_errors_with_both_tracebacks(session: venvd.Session) -> None:
    """The type and message of the exception, the stack of .NET, the lines of Python, and the inner exception."""
    manager = make_manager(session)
    manager.Create("science")
    with pytest.raises(venvd.UserError, match="taken: science") as taken:
        manager.Create("science")
    assert taken.value.error_type == "InvalidOperationException"
    with pytest.raises(venvd.UserError, match="cannot delete") as failed:
        session.eval("def clean(manager):\n    manager.Delete('absent')\nclean(manager)", manager=manager)
    assert failed.value.error_type == "ArgumentException"
    traceback = failed.value.traceback or ""
    assert "in clean" in traceback
    assert f"{NAMESPACE}.VenvManager.Delete" in traceback
    assert "absent: absent" in traceback


def test_each_session_has_a_runtime_of_its_own(http_session: venvd.Session, connect: Connect) -> None:
    """Static fields are not shared: a session is forked before it starts the .NET runtime."""
    make_manager(http_session).Create("science")
    with connect("http").sessions.create() as other:
        make_manager(other)
        made = f"from {NAMESPACE} import VenvManager\nVenvManager.Made"
        assert (http_session.eval(made), other.eval(made)) == (1, 0)


def test_a_script_finds_assemblies_by_name(http_session: venvd.Session) -> None:
    """`clr.AddReference` takes the name of an assembly; a library without .NET is named on stderr and does no harm."""
    script = "import clr\nclr.AddReference('Environments')\nfrom Example.Environments import VenvManager\n"
    output = http_session.exec(script + "print(VenvManager('/srv').Create('science'))")
    assert output.stdout == "/srv/science\n"
    assert output.stderr.startswith("native.dll is not referenced: ")


def test_an_interrupt_keeps_the_state(http_session: venvd.Session) -> None:
    """The .NET runtime leaves the session's signal handler alone."""
    manager = make_manager(http_session)
    manager.Create("science")
    for _ in range(2):
        with pytest.raises(venvd.DeadlineExceeded) as late:
            http_session.eval("while True: pass", timeout=1)
        assert not late.value.state_lost
    assert manager.Count == 1


@pytest.mark.parametrize("engine", ["local"], indirect=True)
def test_a_preloaded_module_that_starts_the_runtime(controller: Controller, assemblies: Path) -> None:
    """Its zygote forks no session: they start as new interpreters, in which .NET works, and the log says why."""
    venv = controller.api("GET", "/v1/venvs/net")
    site = next(Path(venv["image"]).glob("lib/python3*/site-packages"))
    (site / "starts_net.py").write_text("import clr\n")
    python = venv["spec"]["python"]
    controller.venv("preload", python=python, dotnet=True, assemblies=str(assemblies), preload=["starts_net"])
    backend = controller.backend("preload")
    with venvd.connect(backend["url"], backend["token"], timeout=120) as client, client.sessions.create() as session:
        assert make_manager(session).Create("science") == "/srv/science"
    lines = [line["text"] for line in controller.api("GET", f"/v1/backends/{backend['name']}/logs")["items"]]
    assert any("a process with threads cannot be forked" in line for line in lines)


@pytest.mark.docker
@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_user_code_cannot_change_the_assemblies(http_session: venvd.Session) -> None:
    """They are mounted read-only."""
    with pytest.raises(venvd.UserError, match="Read-only file system"):
        http_session.eval("import os\nopen(os.environ['VENVD_ASSEMBLIES'] + '/new.dll', 'w')")
