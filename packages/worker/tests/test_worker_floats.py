"""Float arrays out of what numpy makes an array of. The interpreters of the other tests have no numpy."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from venvd_contract.errors import InvalidRequest
from venvd_worker.session import floats
from venvd_worker.session.float_text import FloatText

SINGLES = np.random.default_rng(7).integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
"""Numbers of 32 bits of every size, with some that are none."""


class Converted:
    """An object that is no sequence, and that numpy makes an array of."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array([[0.1, 2], [3, 4]], dtype="f4")


class Described:
    """An object that describes its memory to numpy."""

    def __init__(self) -> None:
        self._memory = np.array([1.5, 2.5])
        self.__array_interface__ = self._memory.__array_interface__


class Elsewhere:
    """A tensor on another device: it refuses to be an array, and has a list."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("not here")

    def tolist(self) -> list[list[float]]:
        return [[1.5], [2.5]]


def objects(*items: Any) -> Any:
    """An array of numpy, of one dimension, that holds objects."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def written(write: Any, value: Any) -> Any:
    text = FloatText(None, tagged=False)
    write(value, text)
    return json.loads(b"".join(text.finish()))


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        (Converted(), [[0.1, 2.0], [3.0, 4.0]]),
        (Described(), [[1.5, 2.5]]),
        (Elsewhere(), [[1.5], [2.5]]),
        (np.arange(6).reshape(2, 3).T, [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]),
        (np.array(3), [[3.0]]),
        (np.float32(0.1), [[0.1]]),
        ([np.float32(0.1), np.array([0.2], dtype="f2")], [[0.1], [0.2]]),
        (np.ma.masked_array([1, 2], mask=[False, True]), [[1.0, None]]),
        (np.array([1, 2.5], dtype=object), [[1.0, 2.5]]),
        (np.zeros((2, 0)), [[], []]),
        (objects([1, 2], [3]), [[1.0, 2.0], [3.0]]),
        ([objects(1, 2), objects(3.5)], [[1.0, 2.0], [3.5]]),
        (np.array([[1, 2], [3, 4.5]], dtype=object), [[1.0, 2.0], [3.0, 4.5]]),
    ],
)
def test_what_numpy_makes_an_array_of(value: Any, rows: Any) -> None:
    """Its numbers are written as rows, and flat in the same order."""
    assert written(floats.write_rows, value) == rows
    assert written(floats.write_flat, value) == [number for row in rows for number in row]


def test_rows_of_objects_with_rows_of_their_own() -> None:
    """Objects in an array may be lists, and lists in these are a dimension too many."""
    for value in (objects([[1], [2]], [[3]]), [objects([1], [2, 3]), [4]]):
        with pytest.raises(InvalidRequest, match="more than two dimensions"):
            written(floats.write_rows, value)


@pytest.mark.parametrize("numbers", [SINGLES, SINGLES.tobytes()], ids=["numpy", "memory"])
def test_singles_have_their_shortest_form(numbers: Any) -> None:
    """A number of 32 bits has as few digits as tell it from all others of 32 bits."""
    value = memoryview(numbers).cast("f") if isinstance(numbers, bytes) else numbers
    assert written(floats.write_flat, value) == [None if np.isnan(single) else float(str(single)) for single in SINGLES]
