"""User code against its client, and against itself after a fork, through memory that both sides map."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from harness.arrays import SharedArrays
from harness.attacks import Target, shared
from harness.engines import ENGINES
from harness.stack import SharedStacks

import venvd
from venvd._transports.array_connections import _Segment
from venvd.errors import VenvdError
from venvd_contract.internal.segments import create_sealed

pytestmark = pytest.mark.host

ROWS = 50_000
SIZE = 1 << 20
FINDS_SEGMENTS = """
import mmap, os
def segments():
    for name in os.listdir("/proc/self/fd"):
        path = os.path.join("/proc/self/fd", name)
        try:
            shown, size = os.readlink(path), os.stat(path).st_size
            # gVisor tells no name of what came from outside; the memory of the slots is smaller
            if "venvd-segment" in shown or (shown.startswith("host:") and size > 100_000):
                yield os.dup(int(name))
        except OSError:
            pass
"""
"""Code that opens the segments of its session."""
OVERWRITES = (
    FINDS_SEGMENTS
    + """
done = 0
for number in segments():
    with mmap.mmap(number, 0) as memory:
        memory[:] = b"\\x7f" * len(memory)
    os.close(number)
    done += 1
done
"""
)
FORKS = """
import os
def watch(batch):
    global go, told
    go_out, go = os.pipe()
    told, tell = os.pipe()
    if os.fork() == 0:
        os.read(go_out, 1)
        os.write(tell, repr(float(batch.sum())).encode())
        os._exit(0)
def ask():
    os.write(go, b"x")
    return os.read(told, 100).decode()
"""


@pytest.fixture(scope="module", params=ENGINES)
def pipe(request: pytest.FixtureRequest, stacks: SharedStacks) -> Iterator[Target]:
    """A backend with numpy on each engine, whose sessions share memory with their clients."""
    with shared(stacks, stacks.stack(request.param, "numpy"), "pipe") as target:
        yield target


@pytest.fixture(scope="module")
def columnar(stacks: SharedStacks) -> Iterator[Target]:
    """A backend with pyarrow: what the client does with a table depends on no engine."""
    with shared(stacks, stacks.stack("local", "pyarrow"), "pipe") as target:
        yield target


@pytest.mark.slow
def test_a_table_is_changed_behind_its_check(columnar: Target) -> None:
    """A session tries to change offsets of a table that its client has checked: the client has a copy."""
    texts = [f"text {number}" for number in range(ROWS)]
    with venvd.connect(columnar.running.url, token=columnar.running.token) as backend:
        there = backend.put_table(pa.table({"texts": texts}))
        table = backend.get_table(there)
        assert backend.eval(OVERWRITES) > 0
        table.validate(full=True)
        assert table.column("texts").to_pylist() == texts


@pytest.mark.slow
@pytest.mark.about("controller")
def test_an_array_is_cut_under_its_reader(pipe: Target) -> None:
    """A session tries to shrink, grow and unseal memory that its client maps: the seals refuse."""
    with contextlib.closing(SharedArrays(pipe.running.url, pipe.running.token)) as arrays:
        handle = arrays.put(np.arange(ROWS, dtype="<f8"))
        array = arrays.get(handle)
        tries = """
import fcntl
refused = []
for number in segments():
    for attempt in (
        lambda: os.ftruncate(number, 0),
        lambda: os.ftruncate(number, 1 << 40),
        lambda: fcntl.fcntl(number, 1033, 0),
    ):
        try:
            attempt()
        except OSError as error:
            refused.append(error.errno)
    os.close(number)
len(refused) == 3 * len(list(segments())) > 0 and set(refused) <= {1, 22}  # gVisor sets no seals on them at all
"""
        assert arrays("eval", {"expression": FINDS_SEGMENTS + tries})["value"] is True
        assert array.sum() == sum(range(ROWS))


def make_sparse() -> int:
    return create_sealed("attack", SIZE)


def make_unsealed() -> int:
    number = os.memfd_create("attack")
    os.ftruncate(number, SIZE)
    os.posix_fallocate(number, 0, SIZE)
    return number


def make_short() -> int:
    number = create_sealed("attack", SIZE // 2)
    os.posix_fallocate(number, 0, SIZE // 2)
    return number


def make_file() -> int:
    return os.open(__file__, os.O_RDONLY)


@pytest.mark.parametrize("make", [make_sparse, make_unsealed, make_short, make_file])
def test_memory_that_is_not_there(make: Any) -> None:
    """A session tries to have its client map memory without pages, without seals, too short or none: it refuses."""
    number = make()
    segment = _Segment(number)
    with pytest.raises(ValueError, match=r"not sealed, or too small|not there"):
        segment.map(SIZE)
    assert os.fstat(number).st_blocks * 512 <= SIZE
    segment.close()


@pytest.mark.slow
def test_pages_are_taken_back(pipe: Target) -> None:
    """A session tries to take back the pages of the next array's memory: its client goes on."""
    punch = """
import ctypes, threading
stop = threading.Event()
libc = ctypes.CDLL(None)
def take():
    while not stop.is_set():
        for number in segments():
            libc.fallocate(number, 3, ctypes.c_long(0), ctypes.c_long(1 << 20))
            os.close(number)
threading.Thread(target=take, daemon=True).start()
"""
    with (
        venvd.connect(pipe.running.url, token=pipe.running.token) as backend,
        backend.sessions.create() as session,
    ):
        session.exec(FINDS_SEGMENTS + "import numpy\n" + punch)
        there = session.eval("numpy.ones(200_000)")
        for _ in range(20):
            with contextlib.suppress(VenvdError):
                assert session.get_array(there).nbytes == 1_600_000
        session.exec("stop.set()")
    pipe.serves()


@pytest.mark.slow
def test_a_fork_reads_the_next_batch(pipe: Target) -> None:
    """A session tries to keep a batch in a forked child while others come: the child sees its own alone."""
    with contextlib.closing(SharedArrays(pipe.running.url, pipe.running.token)) as arrays:
        arrays("exec", {"code": FORKS})
        first = arrays.put(np.full(ROWS, 1.0))
        arrays("eval", {"expression": "watch(x)", "locals": {"x": {"$handle": first}}})
        arrays("dispose", {"handleId": first})
        for number in range(2, 6):
            handle = arrays.put(np.full(ROWS, float(number)))
            arrays("dispose", {"handleId": handle})
        assert arrays("eval", {"expression": "ask()"})["value"] == repr(float(ROWS))
