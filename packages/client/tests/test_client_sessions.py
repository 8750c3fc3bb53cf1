"""What a client offers beside proxies: output, errors, sessions, asyncio."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import venvd
from venvd._calls import create_session
from venvd._transports import direct


def test_limits_are_an_object_or_a_mapping() -> None:
    """Both send the fields that are set, and no others."""
    given = venvd.Limits(memoryBytes=1 << 30, outputBytes=None)
    for limits in (given, {"memoryBytes": 1 << 30, "outputBytes": None}):
        payload = create_session(None, limits, None, None).payload
        assert payload == {"limits": {"memoryBytes": 1 << 30, "outputBytes": None}}
    assert create_session(None, None, None, None).payload == {}


def test_exec_returns_the_output(backend: venvd.Backend) -> None:
    """What the code prints and its last value come back."""
    output = backend.exec("print('seen')\n(1, 2)")
    assert output.stdout == "seen\n"
    assert output.result == (1, 2)
    assert output.error is None


def test_exec_raises_unless_told_not_to(backend: venvd.Backend) -> None:
    """An error of the code is raised; with `check=False` it is in the output."""
    with pytest.raises(venvd.UserError) as caught:
        backend.exec("{}['absent']")
    assert caught.value.error_type == "KeyError"
    assert isinstance(caught.value, KeyError)
    output = backend.exec("print('before')\n1 / 0", check=False)
    assert output.stdout == "before\n"
    assert output.error is not None
    assert output.error.errorType == "ZeroDivisionError"


def test_exec_streams(backend: venvd.Backend) -> None:
    """Events come first, the whole output last."""
    events = list(backend.exec_stream("print('a')\nprint('b')\n5"))
    assert {event.kind for event in events[:-1]} == {"stdout"}
    assert "".join(event.data for event in events[:-1]) == "a\nb\n"
    assert events[-1].kind == "result"
    assert events[-1].data.stdout == "a\nb\n"
    assert events[-1].data.result == 5


def test_a_streams_error_is_in_its_output(backend: venvd.Backend) -> None:
    """Code that raises ends its stream with an output that tells the error."""
    last = list(backend.exec_stream("print('a')\n1 / 0"))[-1]
    assert last.data.stdout == "a\n"
    assert last.data.error.errorType == "ZeroDivisionError"


@pytest.mark.parametrize("kind", [KeyError, IndexError, ValueError, TypeError, ZeroDivisionError, FileNotFoundError])
def test_builtin_exceptions_are_themselves(backend: venvd.Backend, kind: type[Exception]) -> None:
    """What the code raised is caught as that, and as `UserError`."""
    with pytest.raises(kind, match="why") as caught:
        backend.eval(f"exec('raise {kind.__name__}(\"why\")')")
    assert isinstance(caught.value, venvd.UserError)
    assert caught.value.error_type == kind.__name__


def test_the_remote_traceback_is_shown(backend: venvd.Backend) -> None:
    """The error shows where it arose in the session."""
    with pytest.raises(venvd.UserError) as caught:
        backend.eval("def inner(): raise RuntimeError('x')\ninner()")
    assert "in inner" in "".join(caught.value.__notes__)
    assert "in inner" in (caught.value.traceback or "")


def test_a_wrong_token(server: Any) -> None:
    """The error of the contract, not one of HTTP."""
    with venvd.connect(server.url, "wrong") as backend, pytest.raises(venvd.Unauthenticated):
        backend.eval("1")


def test_ping(server: Any) -> None:
    """`ping` needs no token, and is false where nothing answers."""
    with venvd.connect(server.url) as backend:
        assert backend.ping()
    with venvd.connect("http://127.0.0.1:1") as backend:
        assert not backend.ping()


@pytest.mark.parametrize("run", ["sync", "async"])
def test_a_backend_that_starts_is_waited_for(script: Any, run: str) -> None:
    """`wait_ready` goes on past connections that end without an answer, as those of a backend that starts do."""
    answer = b'{"status":"ok"}'
    said = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer)
    peer = script(None, "reset", said)
    if run == "sync":
        with venvd.connect(peer.url) as backend:
            assert backend.wait_ready() is backend
    else:

        async def wait() -> None:
            async with venvd.connect_async(peer.url) as backend:
                assert await backend.wait_ready() is backend

        asyncio.run(wait())
    assert len(peer.requests) == 3


def test_a_wait_for_a_backend_ends() -> None:
    """An address at which nothing starts is the error of the last attempt."""
    with venvd.connect("http://127.0.0.1:1") as backend, pytest.raises(venvd.Unreachable, match=r"127\.0\.0\.1:1"):
        backend.wait_ready(0.3)


def test_timeouts_travel_with_the_call(server: Any) -> None:
    """A call's timeout is sent; without one the client's, without that none."""
    with venvd.connect(server.url, server.token, timeout=9) as backend:
        backend.eval("1", timeout=2.5)
        backend.eval("1")
    with venvd.connect(server.url, server.token) as backend:
        backend.eval("1")
    assert server.interpreter.seen == [("eval", None, 2.5), ("eval", None, 9.0), ("eval", None, None)]


def test_every_call_takes_a_timeout(server: Any) -> None:
    """Modules, classes and methods have timeouts of their own; proxies have that of their client."""
    day = 86400.0
    with venvd.connect(server.url, server.token, timeout=7) as backend:
        calls = server.interpreter.seen
        calls.clear()
        module = backend.import_module("fractions", timeout=1)
        made = backend.create(module, "Fraction", 1, 2, _timeout=2)
        assert backend.call(made, "limit_denominator", _timeout=venvd.NO_DEADLINE) is not None
        assert made.numerator == 1
        backend.timeout = venvd.NO_DEADLINE
        assert made.denominator == 2
    kept = [timeout for command, _, timeout in calls if command in {"import", "create", "call", "getattr"}]
    assert kept == [1, 2, 365 * day, 7, 365 * day]


def test_a_timeout_that_has_passed(server: Any) -> None:
    """Nothing is sent for it."""
    with venvd.connect(server.url, server.token) as backend, pytest.raises(venvd.DeadlineExceeded):
        backend.eval("1", timeout=0)
    assert not server.interpreter.seen


def test_sessions(server: Any) -> None:
    """Sessions are created, listed, read, interrupted, reset and deleted; calls name theirs."""
    backend = venvd.connect(server.url, server.token)
    with backend.sessions.create("side", limits={"memoryBytes": 5}, idle_timeout=2.0) as session:
        assert session.eval("1") == 1
        assert session.info is not None
        assert session.info.limits.memoryBytes == 5
        session.interrupt()
        assert session.reset().id == "side"
    assert [info.name for info in backend.sessions.list()] == ["default", "side"]
    assert backend.sessions.get("other/one").name in {"other/one", "other%2Fone"}
    commands = [command for command, _, _ in server.interpreter.seen]
    assert commands == [
        *("session.create", "eval", "session.interrupt", "session.reset", "session.delete"),
        *("session.list", "session.get"),
    ]
    assert ("eval", "side", None) in server.interpreter.seen


def test_an_unknown_session(backend: venvd.Backend) -> None:
    """It is `NotFound`."""
    with pytest.raises(venvd.NotFound, match="nobody"):
        backend.session("nobody").eval("1")


def test_handles_are_listed(backend: venvd.Backend) -> None:
    """What the session holds can be read."""
    kept = backend.wrap([1])
    assert len(backend.handles()) == 1
    assert kept


@pytest.mark.slow
def test_asyncio(server: Any) -> None:
    """Attributes, calls, items, operators, iteration and `async with` of a proxy are awaited."""

    async def run() -> None:
        async with venvd.connect_async(server.url, server.token) as backend:
            fractions = await backend.import_module("fractions")
            half = await fractions.Fraction(1, 2)
            assert await half.numerator == 1
            assert await (await (half + half)).numerator == 1
            numbers = await backend.wrap([1, 2, 3])
            assert await numbers[1:] == [2, 3]
            assert [item async for item in numbers] == [1, 2, 3]
            path = await backend.import_module("os")
            assert await path.path.join("a", "b") == "a/b"
            builtins = await backend.import_module("builtins")
            assert await builtins.len(numbers) == 3
            await backend.setattr(await backend.eval("class T: pass\nthing = T()\nthing"), "x", 5)
            manager = await backend.eval("import contextlib\ncontextlib.nullcontext(7)")
            async with manager as entered:
                assert entered == 7
            with pytest.raises(AttributeError):
                await numbers.absent
            output = await backend.exec("print('x')")
            assert output.stdout == "x\n"
            kinds = [event.kind async for event in backend.exec_stream("print('x')")]
            assert kinds == ["stdout", "result"]
            async with await backend.sessions.create() as session:
                assert await session.eval("1") == 1
            assert await backend.ping()

    asyncio.run(run())


def test_dead_proxies_of_asyncio_release_their_handles(server: Any, eventually: Any) -> None:
    """In a task of the loop, and those that live at the end with the client."""

    async def run() -> None:
        async with venvd.connect_async(server.url, server.token) as backend:
            held = [await backend.wrap([number]) for number in range(20)]
            kept = await backend.wrap([0])
            del held
            gc.collect()
            await asyncio.to_thread(eventually, lambda: len(server.interpreter.objects) == 1)
            assert await kept[0] == 0

    asyncio.run(run())
    assert not server.interpreter.objects


def test_a_call_is_encoded_once(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a backend takes no direct connections, no call is encoded for one."""
    encoded: list[Any] = []
    monkeypatch.setattr(direct, "encode_call", lambda call, **_: encoded.append(call))
    with venvd.connect(server.url, server.token) as backend:
        assert [backend.eval("6 * 7") for _ in range(4)] == [42] * 4
    assert encoded == []
