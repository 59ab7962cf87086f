"""Pickles without unpickling: values, arrays of numbers, and what is refused."""

import math
import pickle
import struct

import numpy as np
import pytest

from wm_pipelines.runtime.pickles import ARRAY_NAMES, read_pickle, to_array, to_number

VALUES = [
    None, True, False, 0, -1, 255, 65536, -(2**40), 2**80, 1.5, math.inf, "", "a\u2028b", b"", b"\x00\xff",
    [], [1, [2, "x"]], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, {"a": [1], 2: None}, {1, 2}, frozenset({3}),
    bytearray(b"abc"), [[[]]], {"x": {"y": {"z": (1, "two", 3.0)}}}, list(range(2000)),
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_plain_values_come_out_as_they_went_in(value, protocol):
    data = pickle.dumps(value, protocol)
    if protocol < 3 and isinstance(value, bytes | bytearray) or protocol < 5 and isinstance(value, bytearray):
        with pytest.raises(ValueError, match="it asks for"):  # older protocols keep bytes as a call
            read_pickle(data, ())
    elif protocol < 4 and isinstance(value, set | frozenset):
        with pytest.raises(ValueError, match="it asks for"):
            read_pickle(data, ())
    else:
        assert read_pickle(data, ()) == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<i8", "u1", "?", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numbers(dtype, order, protocol):
    array = np.asarray(np.arange(6).reshape(2, 3) % 2 if dtype == "?" else np.arange(6).reshape(2, 3), dtype, order)
    data = pickle.dumps(array, protocol)
    assert np.array_equal(to_array(read_pickle(data, ARRAY_NAMES)), array)


def test_arrays_of_objects_are_lists_and_numbers_are_numbers():
    array = np.empty((2, 2), object)
    array[0], array[1] = ["a", 1], [None, [2]]
    assert to_array(read_pickle(pickle.dumps(array), ARRAY_NAMES)) == ["a", 1, None, [2]]
    assert to_array(read_pickle(pickle.dumps(np.asfortranarray(array)), ARRAY_NAMES)) == ["a", 1, None, [2]]
    assert to_number(read_pickle(pickle.dumps(np.float64(1.25)), ARRAY_NAMES)) == 1.25


def raw(dtype: bytes, shape: tuple, payload: bytes) -> bytes:
    """A pickled array whose objects are raw bytes: numpy's own loader would take them for pointers."""
    size = b"".join(b"K" + bytes([side]) for side in shape)
    return (
        b"\x80\x04cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR(K\x01(" + size + b"t"
        b"cnumpy\ndtype\n(X" + struct.pack("<I", len(dtype)) + dtype + b"K\x00K\x01tR(K\x03X\x01\x00\x00\x00|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89C" + bytes([len(payload)]) + payload + b"tb."
    )


@pytest.mark.parametrize("dtype", [b"O8", b"O", b"V8", b"S8", b"U2", b"M8", b"f8,O8", b"i4O", b"f99", b""])
def test_arrays_that_would_point_into_memory_are_refused(dtype):
    made = read_pickle(raw(dtype, (1,), b"\x41" * 8), ARRAY_NAMES)
    with pytest.raises(ValueError, match="an array"):
        to_array(made)


def test_sizes_must_fit_their_data():
    assert to_array(read_pickle(raw(b"f8", (1,), bytes(8)), ARRAY_NAMES)).tolist() == [0.0]
    with pytest.raises(ValueError, match=r"of shape \(200, 200\) with 8 bytes"):
        to_array(read_pickle(raw(b"f8", (200, 200), bytes(8)), ARRAY_NAMES))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x", b"\x80\x04", b"\x80\x04.", b"\x80\x04]", pickle.dumps([1, 2])[:-1], pickle.dumps({"a": 1})[:-3],
        b"(.", b"h\x00.", b"t.", b"\x80\x04Ka\x85R.", b"\x80\x04]K\x01s.", b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.", b"\x80\x04P1\n.", b"Q.", b"\x80\x02\x82\x01.", b"\x80\x04]a.", b"}(K\x01u.",
        b"}]K\x01s.",
    ],
)  # fmt: skip
def test_what_is_no_whole_plain_pickle_is_one_error(data):
    with pytest.raises(ValueError):
        read_pickle(data, ())


def test_depth_and_doubling_cost_nothing():
    deep = b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b"."
    assert isinstance(read_pickle(deep, ()), list)
    doubling = b"\x80\x04]" + b"2\x86" * 10_000 + b"."  # a tuple of the tuple before, twice, ten thousand times
    assert len(read_pickle(doubling, ())) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"K\x01s.",
        b"\x80\x04\x8f(" + b")" + b"\x85" * 200_000 + b"\x90.",
        b"\x80\x04(" + b")" + b"\x85" * 200_000 + b"\x91.",
        b"\x80\x02}" + b")" + b"2\x86" * 200 + b"K\x01s.",
    ],
    ids=["deep key", "deep member", "deep frozen member", "doubled key"],
)
def test_what_is_hashed_is_never_deep(data):
    with pytest.raises(ValueError, match="a tuple stands where"):
        read_pickle(data, ())


def test_a_reduced_library_function_is_only_named():
    with pytest.raises(ValueError, match="it asks for numpy.load"):
        read_pickle(pickle.dumps(np.load), ARRAY_NAMES)
