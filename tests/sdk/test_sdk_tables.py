"""Tables in the SDK: Arrow there and here, over every transport."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from harness.stack import Running, SharedStacks, Stack

import venvd

STREAM = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def columnar(stacks: SharedStacks) -> Stack:
    """One venv with what holds columns; its packages are large, so on one engine only."""
    return stacks.stack("local", "pyarrow", "pandas", "polars")


@pytest.fixture(scope="module", params=["http", "pipe", "rpc"])
def tabular(stacks: SharedStacks, columnar: Stack, request: pytest.FixtureRequest) -> Running:
    return stacks.backend(columnar, request.param)


@pytest.fixture
def backend(tabular: Running) -> Iterator[venvd.Backend]:
    with venvd.connect(tabular.url, token=tabular.token) as made:
        yield made


def table(rows: int) -> Any:
    columns = {"number": [index * 1.5 for index in range(rows)], "text": [f"☃{index}" for index in range(rows)]}
    return pa.table({**columns, "gap": pa.array([None] * rows, pa.int64())})


@pytest.mark.parametrize("rows", [0, 3, 100_000])
def test_a_table_comes_back(backend: venvd.Backend, rows: int) -> None:
    """Types, names, gaps and values of a `pyarrow.Table` stay what they were, however many rows it has."""
    there = backend.put_table(table(rows))
    assert venvd.type_name(there) == "Table"
    assert backend.get_table(there).equals(table(rows))


@pytest.mark.parametrize("into", ["arrow", "pandas", "polars"])
def test_arrow_reads_a_proxy(backend: venvd.Backend, into: str) -> None:
    """`pyarrow.table(proxy)` of any table has its column names, types and values."""
    local = table(5).drop_columns("gap")
    made = pa.table(backend.put_table(local, into="table" if into == "arrow" else into))
    assert made.column_names == ["number", "text"]
    assert made.schema.field("number").type == pa.float64()
    assert made.to_pydict() == local.to_pydict()


@pytest.mark.parametrize("into", ["pandas", "polars"])
def test_a_table_becomes_a_data_frame(backend: venvd.Backend, into: str) -> None:
    """What is sent `into` pandas or polars is a frame of theirs there, and comes back as a table of the same values."""
    there = backend.put_table(table(50), into=into)
    assert venvd.type_name(there) == "DataFrame"
    assert there.shape == (50, 3)
    back = backend.get_table(there).to_pydict()
    assert back["number"] == table(50).to_pydict()["number"]
    assert back["text"] == table(50).to_pydict()["text"]


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("__import__('pandas').Series([1, 2], name='s')", ["s"]),
        ("__import__('polars').DataFrame({'a': [1], 'b': ['x']})", ["a", "b"]),
        ("__import__('pyarrow').record_batch({'r': [1]})", ["r"]),
    ],
)
def test_whatever_holds_columns_is_a_table(backend: venvd.Backend, code: str, names: list[str]) -> None:
    """Series, batches and frames are fetched as tables."""
    assert backend.get_table(backend.eval(code)).column_names == names


def test_what_holds_none_is_refused(backend: venvd.Backend) -> None:
    """The error says what does, here and there."""
    with pytest.raises(venvd.InvalidRequest, match="this list is no table"):
        backend.get_table(backend.wrap([1]))
    with pytest.raises(venvd.InvalidRequest, match="this int is no table"):
        backend.put_table(1)
    with pytest.raises(venvd.InvalidRequest, match="pandas"):
        backend.put_table(table(1), into="numpy")


def test_asyncio_has_them_too(tabular: Running) -> None:
    """`await` gives the same tables."""

    async def both() -> Any:
        async with venvd.connect_async(tabular.url, token=tabular.token) as backend:
            return await backend.get_table(await backend.put_table(table(30_000)))

    assert asyncio.run(both()).equals(table(30_000))


@pytest.mark.parametrize("tabular", ["http"], indirect=True)
def test_any_http_client_can_ask_for_arrow(tabular: Running, backend: venvd.Backend) -> None:
    """With `Accept` or `format=arrow` a frame is an Arrow stream, and a body of that type becomes one."""
    there = backend.put_table(table(5))
    for query, headers in (("", {"Accept": STREAM}), ("&format=arrow", {})):
        answer = ask(tabular, f"?handleId={there._venvd_id}{query}", headers)
        assert pa.ipc.open_stream(answer).read_all().equals(table(5))
    body = ask(tabular, "?into=pandas", {"Content-Type": STREAM}, answer)
    assert b'"typeName":"DataFrame"' in body
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(tabular, "", {"Content-Type": STREAM}, answer[:-20])
    assert b"no Arrow IPC stream" in caught.value.read()
    caught.value.close()


def ask(running: Running, query: str, headers: dict[str, str], body: bytes | None = None) -> bytes:
    headers = {"Authorization": f"Bearer {running.token}", **headers}
    method = "GET" if body is None else "PUT"
    request = urllib.request.Request(f"{running.url}/api/array{query}", body, headers, method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        data: bytes = answer.read()
    return data
