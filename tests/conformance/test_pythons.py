"""The other CPythons that this machine has, on the local engine: the worker runs on the venv's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import uv
from harness.callers import CALLERS, Caller
from harness.stack import Quiet, Stack, engine_stack

from venvd_contract.errors import DeadlineExceeded, SessionLost, TooLarge, UserError
from venvd_engines.local import interpreters

pytestmark = pytest.mark.about("session")

VERSIONS = ("3.9", "3.13")
"""The oldest that there may be and the newest that Debian has; the other suites use that of the tests."""

PLAIN = [
    ("2**70", {"$int": "1180591620717411303424"}),
    ("float('nan')", {"$float": "nan"}),
    ("b'\\x00\\xff'", {"$bytes": "AP8="}),
    ("(1, {2}, frozenset({3}))", {"$tuple": [1, {"$set": [2]}, {"$frozenset": [3]}]}),
    ("__import__('datetime').timedelta(days=1, seconds=2)", {"$timedelta": "P1DT2S"}),
    ("__import__('decimal').Decimal('1.10')", {"$decimal": "1.10"}),
    ("{1: 'x'}", {"$dict": [[1, "x"]]}),
    ("'snow \\u2603' * 3", "snow \u2603" * 3),
]


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """A CPython that is there; others are skipped, not fetched."""
    installed = interpreters.list_installed(uv.find_uv_bin(), dict(os.environ), Quiet())
    if interpreters.choose(request.param, installed) is None:
        pytest.skip(f"this machine has no CPython {request.param}")
    return str(request.param)


@pytest.fixture(scope="module")
def backends(version: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home: Path = tmp_path_factory.mktemp("python")
    with engine_stack("local", home, python=version) as made:
        yield made


@pytest.fixture(scope="module", params=list(CALLERS))
def other(backends: Stack, request: pytest.FixtureRequest) -> Iterator[Caller]:
    running = backends.start(request.param)
    made = CALLERS[request.param](running.url, running.token)
    yield made
    made.close()
    backends.stop(running)


def test_it_is_that_python(other: Caller, version: str) -> None:
    """The session runs on the version that the venv asked for."""
    result = other("eval", {"expression": "'%d.%d' % __import__('sys').version_info[:2]"})
    assert result == {"value": version}


@pytest.mark.parametrize(("expression", "encoded"), PLAIN)
def test_values_go_both_ways(other: Caller, expression: str, encoded: object) -> None:
    """Values have the same form as on every other version, out and in."""
    assert other("eval", {"expression": expression}, values="tagged") == {"value": encoded}
    same = f"repr(v) == repr({expression})"
    assert other("eval", {"expression": same, "locals": {"v": encoded}}) == {"value": True}


def test_objects_by_handle(other: Caller) -> None:
    """Modules, objects, methods and attributes work by handle."""
    module = other("import", {"moduleName": "collections"})["handleId"]
    made = other("create", {"moduleHandleId": module, "className": "deque", "args": [[1, 2]], "kwargs": {"maxlen": 2}})
    assert other("call", {"handleId": made["handleId"], "methodName": "pop"}) == {"value": 2}
    assert other("getattr", {"handleId": made["handleId"], "attributeName": "maxlen"}) == {"value": 2}
    assert other("dispose", {"handleIds": [module, made["handleId"]]}) == {"success": True}


def test_output_of_every_kind(other: Caller) -> None:
    """Output of Python, of descriptors and of children is caught; the code's own error comes with its lines."""
    code = "import os, subprocess\nprint('out')\nos.write(2, b'raw')\nsubprocess.run(['echo', 'child'])\n1 / 0"
    output = other("exec", {"code": code})
    assert set(output["stdout"].split()) == {"out", "child"}
    assert output["stderr"] == "raw"
    assert output["error"]["errorType"] == "ZeroDivisionError"
    assert "1 / 0" in output["error"]["traceback"]


def test_await_at_the_top(other: Caller) -> None:
    """Top-level `await` works."""
    code = "import asyncio\nawait asyncio.sleep(0, 'woken')"
    assert other("exec", {"code": code})["result"] == {"value": "woken"}


def test_errors_are_the_users(other: Caller) -> None:
    """Type, message and the user's lines come back, and none of venvd's."""
    other("exec", {"code": "def fail():\n    raise LookupError('gone')\n"})
    with pytest.raises(UserError, match="gone") as caught:
        other("eval", {"expression": "fail()"})
    assert caught.value.error_type == "LookupError"
    assert "raise LookupError('gone')" in str(caught.value.traceback)
    assert "venvd" not in str(caught.value.traceback)


def test_deep_values(other: Caller) -> None:
    """Nesting goes up to the limit and not past it, whatever the interpreter's own is."""
    code = "d = 0\nfor _ in range({}): d = [d]\nd"
    assert str(other("eval", {"expression": code.format(100)})["value"]).count("[") == 100
    for depth in (101, 5000):
        with pytest.raises(TooLarge):
            other("eval", {"expression": code.format(depth)})


def test_a_deadline_leaves_the_state(other: Caller) -> None:
    """A call over its timeout is interrupted, and the state stays."""
    other("eval", {"expression": "before = 5"})
    with pytest.raises(DeadlineExceeded) as caught:
        other("eval", {"expression": "import time\nwhile True: time.sleep(0.01)"}, timeout=0.3)
    assert caught.value.state_lost is False
    assert other("eval", {"expression": "before"}) == {"value": 5}


@pytest.mark.parametrize(
    ("code", "says"),
    [("import ctypes; ctypes.string_at(0)", "SIGSEGV"), ("import os; os._exit(1)", "status 1")],
)
def test_a_dead_session_is_replaced(other: Caller, code: str, says: str) -> None:
    """The call that ended its process is told how, and the next one is served."""
    with pytest.raises(SessionLost, match=says):
        other("eval", {"expression": code})
    assert other("eval", {"expression": "1 + 1"}) == {"value": 2}


def test_sessions_of_their_own(other: Caller) -> None:
    """Sessions are made, kept apart and ended."""
    made = other("session.create", {"env": {"GREETING": "hi"}})["id"]
    try:
        assert other("eval", {"expression": "__import__('os').environ['GREETING']"}, session=made) == {"value": "hi"}
        assert other("eval", {"expression": "'GREETING' in __import__('os').environ"}) == {"value": False}
    finally:
        assert other("session.delete", {"id": made}) == {"success": True}
