"""Long float arrays as messages, from text that comes in parts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from venvd_contract.errors import Internal, LimitExceeded
from venvd_core.backend import Outgoing
from venvd_proto.compat import python_service_pb2 as old
from venvd_proto.v1 import python_service_pb2 as new
from venvd_rpc_backend import float_arrays
from venvd_rpc_backend.calls import outlive
from venvd_rpc_backend.float_arrays import pack_flat, pack_rows

FLAT = [number / 7 for number in range(50)]
ROWS = [FLAT, [], [1.5], FLAT[:7], [2.0, -3.5e300]]


def parts(value: Any, size: int) -> Iterator[bytes]:
    """The JSON of a value in parts of so many bytes."""
    text = json.dumps(value, separators=(",", ":")).encode()
    return (text[start : start + size] for start in range(0, len(text), size))


@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
def test_parts_may_end_anywhere(size: int) -> None:
    """The message has every number once, in order, wherever the text is cut."""
    flat = asyncio.run(pack_flat(parts(FLAT, size), "d"))
    assert list(new.ToFloatArrayResponse.FromString(flat).data) == FLAT
    rows = asyncio.run(pack_rows(parts(ROWS, size), "d"))
    assert [list(row.data) for row in new.ToFloatArray2DResponse.FromString(rows).rows] == ROWS


def test_the_older_messages_have_numbers_of_32_bits() -> None:
    """What they cannot hold is an infinity, as in C#."""
    flat = asyncio.run(pack_flat(parts([0.5, 1e300, {"$float": "-inf"}], 5), "f"))
    assert list(old.ToFloatArrayResponse.FromString(flat).data) == [0.5, float("inf"), -float("inf")]
    rows = asyncio.run(pack_rows(parts([[0.5], []], 5), "f"))
    assert [list(row.values) for row in old.ToFloatArray2DResponse.FromString(rows).data] == [[0.5], []]


@pytest.mark.parametrize("value", [[], [[]]])
def test_nothing_is_a_message_too(value: list[Any]) -> None:
    """An empty array has no numbers, and one empty row is a row."""
    pack, message = (pack_rows, new.ToFloatArray2DResponse) if value else (pack_flat, new.ToFloatArrayResponse)
    packed = message.FromString(asyncio.run(pack(parts(value, 1), "d")))
    assert len(packed.rows if value else packed.data) == len(value)


@pytest.mark.parametrize("text", [b"[1,2", b'["x"]', b"[1,,2]", b"{}"])
def test_what_is_no_array_is_the_sessions_fault(text: bytes) -> None:
    """Its text may be anything, and the error is ours to tell."""
    with pytest.raises(Internal):
        asyncio.run(pack_flat([text], "d"))


@pytest.mark.parametrize(("pack", "value"), [(pack_flat, FLAT), (pack_rows, ROWS)])
def test_a_message_has_a_limit(pack: Any, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer one is refused while it is made, and the error names the method that sends an array in parts."""
    monkeypatch.setattr(float_arrays, "LARGEST_WHOLE", 300)
    with pytest.raises(LimitExceeded, match="GetArray"):
        asyncio.run(pack(parts(value, 64), "d"))


def test_what_comes_after_the_client_has_left_is_closed() -> None:
    """The work goes on without its client, and only the server can release the memory that it gives."""

    class Segment(Outgoing):
        closed = False

        def __init__(self) -> None: ...

        def close(self, *, reusable: bool = True) -> None:
            self.closed = True

    async def leave() -> bool:
        work: asyncio.Future[Segment] = asyncio.get_running_loop().create_future()
        client = asyncio.ensure_future(outlive(work))
        await asyncio.sleep(0)
        client.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client
        segment = Segment()
        work.set_result(segment)
        await asyncio.sleep(0)
        return segment.closed

    assert asyncio.run(leave())
