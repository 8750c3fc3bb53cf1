"""Arrays in the SDK: numpy there and here, over every transport."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from harness.engines import ENGINES
from harness.stack import Running, SharedStacks, Stack

import venvd
from venvd._transports import array_connections

pytestmark = pytest.mark.about("transport")


@pytest.fixture(scope="module", params=ENGINES)
def numeric(request: pytest.FixtureRequest, stacks: SharedStacks) -> Stack:
    return stacks.stack(request.param, "numpy")


@pytest.fixture(scope="module", params=["pipe", "http", "rpc"])
def running(stacks: SharedStacks, numeric: Stack, request: pytest.FixtureRequest) -> Running:
    return stacks.backend(numeric, request.param)


@pytest.fixture
def backend(running: Running) -> Iterator[venvd.Backend]:
    with venvd.connect(running.url, token=running.token) as made:
        yield made


SHARED = pytest.mark.parametrize("running", ["pipe"], indirect=True)
"""For tests of shared memory, which the pipe alone has."""

ARRAYS: tuple[Any, ...] = (
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(600_000).reshape(1000, 600)),
    np.arange(200_000).reshape(2, -1)[:, ::3],
    np.array(["2024-02-29", "NaT"], "M8[D]"),
    np.array([1 + 2j]).astype(">c16"),
    np.array([["a", "\u2603"]]),
    np.zeros((0, 3), "?"),
    np.array(5, "u1"),
    [[1, 2], [3, 4]],
    2.5,
)


@pytest.mark.parametrize("value", ARRAYS, ids=lambda value: str(np.asarray(value).dtype))
def test_arrays_go_there_and_come_back(backend: venvd.Backend, value: Any) -> None:
    """`put_array` makes a numpy array in the session, `get_array` and `numpy.asarray` the same here."""
    sent = np.asarray(value)
    proxy = backend.put_array(value)
    assert backend.eval("[type(x).__name__, str(x.dtype), x.shape]", x=proxy) == [
        "ndarray",
        str(sent.dtype),
        sent.shape,
    ]
    for array in (backend.get_array(proxy), np.asarray(proxy)):
        np.testing.assert_array_equal(array, sent)
        assert (array.dtype, array.shape, array.flags.writeable) == (sent.dtype, sent.shape, True)


def test_what_is_fetched_is_the_programs_own(backend: venvd.Backend) -> None:
    """Changing an array here changes nothing there, nor another array that was fetched before or after."""
    proxy = backend.put_array(np.zeros(100_000))
    first = backend.get_array(proxy)
    first[:] = 1
    second = backend.get_array(proxy)
    second[:] = 2
    proxy += 3
    third = backend.get_array(proxy)
    assert [each.sum() for each in (first, second, third)] == [100_000, 200_000, 300_000]


def test_many_arrays_at_once_stay_what_they_are(backend: venvd.Backend) -> None:
    """A program may keep as many arrays as it likes."""
    proxies = [backend.put_array(np.full(20_000, number)) for number in range(80)]
    arrays = [backend.get_array(proxy) for proxy in proxies]
    assert [int(array[-1]) for array in arrays] == list(range(80))
    assert all((array == array[0]).all() for array in arrays)


def test_an_array_outlives_its_connection(running: Running) -> None:
    """What was fetched stays when the client is closed, and when the session makes others afterwards."""
    with venvd.connect(running.url, token=running.token) as backend:
        kept = backend.get_array(backend.put_array(np.full(100_000, 7)))
    with venvd.connect(running.url, token=running.token) as backend:
        for number in range(4):
            backend.get_array(backend.put_array(np.full(100_000, number)))
    assert (kept == 7).all()


def test_numpy_functions_take_a_proxy(backend: venvd.Backend) -> None:
    """`numpy.asarray(proxy, dtype)` converts, and functions of numpy here take what lies there."""
    proxy = backend.put_array(np.arange(10))
    assert np.asarray(proxy, dtype="f4").dtype == np.float32
    assert np.mean(proxy) == 4.5
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(proxy, copy=False)


def test_what_cannot_travel_is_refused(backend: venvd.Backend) -> None:
    """Objects are refused before anything is sent, or by the session; the next call goes on."""
    with pytest.raises(venvd.InvalidRequest, match="objects cannot travel"):
        backend.put_array([object()])
    with pytest.raises(venvd.InvalidRequest, match="masked"):
        backend.put_array(np.ma.array([1], mask=[True]))
    with pytest.raises(venvd.InvalidRequest, match="cannot travel"):
        backend.get_array(backend.eval("object()"))
    with pytest.raises(venvd.InvalidRequest, match="handle is needed"):
        backend.get_array([1])  # type: ignore[arg-type]
    assert backend.eval("1 + 1") == 2


def test_a_session_has_its_own_arrays(backend: venvd.Backend) -> None:
    """Arrays of a session go to it and come from it; when it has ended, its arrays are gone and those here are not."""
    with backend.sessions.create() as session:
        proxy = session.put_array(np.arange(50_000))
        assert session.eval("int(x.sum())", x=proxy) == 1_249_975_000
        kept = session.get_array(proxy)
        session.reset()
        with pytest.raises(venvd.HandleNotFound):
            session.get_array(proxy)
        assert kept.sum() == 1_249_975_000
        assert session.get_array(session.put_array(kept)).sum() == 1_249_975_000


def test_limits_name_themselves(backend: venvd.Backend) -> None:
    """`arrayBytes` bounds arrays in both directions."""
    with backend.sessions.create(limits={"arrayBytes": 1_000_000}) as session:
        with pytest.raises(venvd.LimitExceeded, match="arrayBytes is 1000000"):
            session.put_array(np.zeros(1_000_000))
        with pytest.raises(venvd.LimitExceeded, match="arrayBytes is 1000000"):
            session.get_array(session.eval("__import__('numpy').zeros(1_000_000)"))
        assert session.get_array(session.put_array(np.zeros(100_000))).nbytes == 800_000


def test_asyncio_has_them_too(running: Running) -> None:
    """The same methods, awaited; several at once."""

    async def work() -> None:
        async with venvd.connect_async(running.url, token=running.token) as backend:
            proxies = await asyncio.gather(*(backend.put_array(np.full(50_000, each)) for each in range(5)))
            arrays = await asyncio.gather(*(backend.get_array(proxy) for proxy in proxies))
            assert [int(array.mean()) for array in arrays] == list(range(5))
            thing = await backend.eval("object()")
            with pytest.raises(venvd.InvalidRequest):
                await backend.get_array(thing)

    asyncio.run(work())


SLOW = """
import time, numpy
class Slow:
    def __array__(self, dtype=None, copy=None):
        global begun
        begun = True
        time.sleep(60)
begun = False
slow = Slow()
"""


async def until_busy(backend: venvd.AsyncBackend, name: str) -> None:
    while (await backend.sessions.get(name)).state != "busy":  # noqa: ASYNC110 - nothing tells of that but asking
        await asyncio.sleep(0.01)


def test_a_fetch_that_is_cancelled_is_stopped(running: Running) -> None:
    """Cancelling the task, or a timeout, interrupts what the session does for it."""

    async def work() -> None:
        async with venvd.connect_async(running.url, token=running.token) as backend:
            session = await backend.sessions.create()
            async with session:
                await session.exec(SLOW)
                slow = await session.eval("slow")
                with pytest.raises(venvd.DeadlineExceeded):
                    await session.get_array(slow, timeout=0.5)
                task = asyncio.ensure_future(session.get_array(slow))
                await until_busy(backend, session.name)
                task.cancel()
                assert await session.eval("begun", timeout=30) is True

    asyncio.run(work())


@SHARED
def test_memory_is_given_back(backend: venvd.Backend) -> None:
    """Where arrays die and no further ones are asked for, the session is told of it all the same."""
    proxy = backend.put_array(np.zeros(100_000))
    arrays = [backend.get_array(proxy) for _ in range(5)]
    idle = backend._transport._main._array_connections._idle  # type: ignore[attr-defined]
    assert sum(each.lent for each in idle) == 5
    del arrays
    gc.collect()
    end = time.monotonic() + 120
    while sum(len(each._lent) for each in idle) or not idle:
        assert time.monotonic() < end, "it is not given back"
        time.sleep(0.02)


@SHARED
def test_without_descriptors_arrays_still_come(backend: venvd.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something between passes bytes and loses descriptors, arrays come and go as attachments."""

    def deaf(connection: Any, size: int, *_: Any) -> Any:
        return connection.recv(size), [], 0, None

    monkeypatch.setattr(array_connections.socket, "recv_fds", deaf)
    for _ in range(2):
        proxy = backend.put_array(np.arange(100_000))
        assert backend.get_array(proxy).sum() == 4_999_950_000


def test_a_program_without_numpy_is_told(backend: venvd.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numpy here the error says what to do; everything else works."""
    proxy = backend.put_array(np.arange(3))
    monkeypatch.setitem(__import__("sys").modules, "numpy", None)
    with pytest.raises(venvd.InvalidRequest, match="need numpy in this program"):
        backend.get_array(proxy)
    with pytest.raises(venvd.InvalidRequest, match="need numpy in this program"):
        backend.put_array([1])
    assert backend.floats(proxy) == [0, 1, 2]
