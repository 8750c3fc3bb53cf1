"""Descriptions of arrays: what may travel, what it takes, and the header of a `.npy` stream beside numpy's."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from venvd_contract import arrays
from venvd_contract.errors import InvalidRequest, TooLarge, VenvdError

DTYPES = (
    "|b1", "|i1", "|u1", "<i2", ">i2", "<i4", ">i4", "<i8", "<u2", ">u4", "<u8", "<f2", "<f4", "<f8", ">f8", "<f16",
    "<c8", "<c16", ">c16", "<c32", "<M8", "<M8[ns]", "<M8[D]", ">M8[us]", "<m8[s]", "<m8[25s]", "|S5", "<U7", ">U1",
)  # fmt: skip
SHAPES = ((), (0,), (1,), (5,), (2, 3), (1, 5), (0, 3), (3, 0), (2, 1, 4), (1,) * 32)


def npy_header(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
    return stream.getvalue()


def header_of(array: np.ndarray[Any, Any]) -> arrays.Header:
    columns = array.flags.f_contiguous and not array.flags.c_contiguous
    return arrays.header(array.dtype.str, array.shape, "F" if columns else "C")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_header_says_what_numpy_says(dtype: str, order: Any) -> None:
    """Length, type and `.npy` header of every permitted type are those of numpy, whatever the shape and order."""
    for shape in SHAPES:
        array = np.zeros(shape, dtype=dtype, order=order)
        header = header_of(array)
        assert (header.nbytes, header.itemsize, header.dtype) == (array.nbytes, array.itemsize, array.dtype.str)
        written = arrays.dump_npy(header)
        assert written == npy_header(array)
        assert arrays.parse_npy(written) == (header, len(written))
        assert np.load(io.BytesIO(written + array.tobytes("A")), allow_pickle=False).shape == shape


@pytest.mark.parametrize(("given_", "meant"), [("<i1", "|i1"), (">S3", "|S3"), ("b1", "|b1"), ("<f08", "<f8")])
def test_a_type_has_one_name(given_: str, meant: str) -> None:
    """A byte order that says nothing is left out, as numpy does."""
    assert arrays.header(given_, []).dtype == meant


@pytest.mark.parametrize(
    ("dtype", "says"),
    [
        ("|O", "objects cannot travel"),
        ("O8", "objects cannot travel"),
        ("|V16", "structured and void"),
        ("f8", "byte order"),
        ("=f8", "byte order"),
        ("<U3[ns]", "have a unit"),
        ("<M8[xs]", "no dtype"),
        ("<f3", "no dtype"),
        ("<g8", "no dtype"),
        ("|S0", "from 1 on"),
        ("|S", "from 1 on"),
        ("<U99999999999", "no dtype"),
        ("<f8, <f8", "no dtype"),
        ("", "no dtype"),
        ("<f8\n", "no dtype"),
        (None, "is a text"),
        (["<f8"], "is a text"),
        ("x" * 10_000, "no dtype"),
    ],
)
def test_a_type_that_cannot_travel_is_refused(dtype: Any, says: str) -> None:
    """What is no fixed number of plain bytes is refused with a sentence, which is short."""
    with pytest.raises(InvalidRequest, match=says) as caught:
        arrays.header(dtype, [1])
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        ([-1], InvalidRequest),
        ([1.0], InvalidRequest),
        ([True], InvalidRequest),
        (["1"], InvalidRequest),
        (3, InvalidRequest),
        (None, InvalidRequest),
        ({}, InvalidRequest),
        ([1] * 65, TooLarge),
        ([2**63], TooLarge),
        ([2**32, 2**32], TooLarge),
        ([0, 2**32, 2**32], TooLarge),
        ([2**40] * 64, TooLarge),
    ],
)
def test_a_shape_that_is_none_is_refused(shape: Any, error: type[VenvdError]) -> None:
    """Lengths are whole numbers from 0 on, and their product is what memory could hold."""
    with pytest.raises(error):
        arrays.header("<f8", shape)


def test_an_order_is_c_or_f() -> None:
    """Nothing else is an order."""
    for order in ("A", "c", None, 1):
        with pytest.raises(InvalidRequest, match="order"):
            arrays.header("<f8", [1], order)


def test_length_is_held_against_type_and_shape() -> None:
    """A byte too few or too many is refused, and both numbers are named."""
    header = arrays.header("<f8", [2, 3])
    header.check_length(48)
    for wrong in (47, 49, 0):
        with pytest.raises(InvalidRequest, match=f"takes 48 bytes, and there are {wrong}"):
            header.check_length(wrong)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_npy_is_read(version: tuple[int, int]) -> None:
    """Headers of versions 1.0 to 3.0 are read wherever the stream is cut, and what follows is not touched."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.zeros((3, 4), ">i4", order="F"), version=version)
    data = stream.getvalue()
    for end in range(len(data) - 48):
        assert arrays.parse_npy(data[:end]) is None
    parsed = arrays.parse_npy(data)
    assert parsed is not None
    assert parsed == (arrays.header(">i4", (3, 4), "F"), len(data) - 48)


def npy(text: str, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version[0] == 1 else 4, "little") + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04 this is no npy",
        b"\x93NUMPX",
        npy("{}"),
        npy("{'descr': '<f8', 'fortran_order': False}"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), 'more': 1}"),
        npy("{'descr': '<f8', 'fortran_order': 0, 'shape': (1,)}"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': [1]}"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': 1}"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1.5,)}"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        npy("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,)}"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': __import__('os').getcwd()}"),
        npy("not a dictionary"),
        npy("(" * 5000),
        npy("-" * 50_000 + "1"),
        npy("{'descr': '\udcff'}".encode("utf-8", "surrogatepass").decode("latin-1")),
        npy("", b"\x04\x00"),
        b"\x93NUMPY\x03\x00\x02\x00\x00\x00\xff\xff",
    ],
)
def test_what_is_no_npy_is_refused(data: bytes) -> None:
    """Nothing is evaluated, nothing is unpickled, and no nesting is too deep for the parser."""
    with pytest.raises(InvalidRequest):
        arrays.parse_npy(data)


def test_a_large_header_is_refused_unread() -> None:
    """A header that announces gigabytes is refused when its length is known."""
    with pytest.raises(TooLarge, match="npy header"):
        arrays.parse_npy(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f")


@settings(deadline=None)
@given(
    hnp.arrays(
        dtype=st.sampled_from([dtype for dtype in DTYPES if dtype not in {"<f16", "<c32"}]),
        shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        elements=None,
        fill=st.nothing(),
    ),
    st.sampled_from(["C", "F"]),
)
@pytest.mark.slow
def test_arrays_survive_the_npy_stream(array: np.ndarray[Any, Any], order: Any) -> None:
    """Any array, written with our header, is what numpy reads; and ours reads what numpy writes."""
    array = np.asarray(array, order=order)
    stream = arrays.dump_npy(header_of(array)) + array.tobytes("A")
    assert np.load(io.BytesIO(stream), allow_pickle=False).tobytes() == array.tobytes()
    written = io.BytesIO()
    np.save(written, array, allow_pickle=False)
    assert written.getvalue() == stream
