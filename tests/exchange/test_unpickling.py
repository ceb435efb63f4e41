"""Pickles: arrays of every protocol are loaded, and other objects are refused before any code in them runs."""

import builtins
import os
import pickle
import tracemalloc

import numpy as np
import pytest

from psptool.common.errors import PspError
from psptool.exchange.pyskl import read_pyskl
from psptool.formats.readers.unpickling import PickledArray, load_pickle


class Calls:
    """An object whose pickle calls ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def saved(path, value, protocol=pickle.DEFAULT_PROTOCOL):
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "i8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_protocol_are_loaded(tmp_path, protocol, dtype, order):
    array = np.asarray(np.arange(6).reshape(1, 2, 3), dtype, order=order)
    found = load_pickle(saved(tmp_path / "a.pkl", {"x": array, "n": np.float32(0.5)}, protocol))
    assert isinstance(found["x"], PickledArray)
    np.testing.assert_array_equal(found["x"].values, array)
    assert found["x"].values.dtype == array.dtype
    assert found["n"] == 0.5


def test_arrays_with_module_names_of_numpy_1_are_loaded(tmp_path):
    old = pickle.dumps(np.arange(3.0), 2).replace(b"numpy._core.", b"numpy.core.")
    np.testing.assert_array_equal(load_pickle(saved(tmp_path / "a.pkl", old)).values, np.arange(3.0))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (lambda mark: Calls(os.system, f"touch {mark}"), r"system"),
        (lambda _: [{"annotations": Calls(eval, "1")}], r"builtins\.eval"),
        (lambda _: Calls(getattr, 1, "real"), r"builtins\.getattr"),
        (lambda _: Calls(builtins.__import__, "os"), r"builtins\.__import__"),
        (lambda _: Calls(np.load, "x.npy"), r"numpy\.load"),
        (lambda _: Calls(np.ndarray, (10**10,)), "a call of numpy.ndarray"),
        (lambda _: np.array([{}], dtype=object), "an array of 'O"),
        (lambda _: b"cnumpy._core.multiarray\n_reconstruct\n}b.", "a modified function"),
        (lambda _: b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I9999999999\ntS'b'\ntR.", "shape"),
        (lambda _: b"\x80\x02\x82\x01.", "extension 1"),
        (lambda _: b"Psomewhere\n.", "an object outside the file"),
    ],
    ids=[
        "a shell command", "nested eval", "getattr", "an import", "numpy.load",
        "a large array", "an array of objects", "a modified function", "a large empty array", "an extension",
        "a persistent id",
    ],
)  # fmt: skip
def test_a_malicious_pickle_is_refused_with_the_object_found(tmp_path, value, found):
    path = saved(tmp_path / "a.pkl", value(tmp_path / "mark"))
    with pytest.raises(PspError, match=rf"a\.pkl: refused: found a pickle with .*{found}"):
        load_pickle(path)
    assert not (tmp_path / "mark").exists()


def peak_memory(function):
    """Peak memory of ``function`` in bytes."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x96", b"\x95"], ids=["bytes", "bytearray", "frame"])
def test_a_file_that_declares_ten_gigabytes_is_refused_before_it_uses_memory(tmp_path, opcode):
    path = saved(tmp_path / "a.pkl", b"\x80\x05" + opcode + (10**10).to_bytes(8, "little") + b"x.")

    def load():
        with pytest.raises(PspError, match="10000000000 bytes announced, 2 left"):
            load_pickle(path)

    assert peak_memory(load) < 5_000_000


def test_a_large_memo_index_uses_no_memory(tmp_path):
    path = saved(tmp_path / "a.pkl", b"\x80\x02Nr\xff\xff\xff\xf0.")
    assert peak_memory(lambda: load_pickle(path)) < 5_000_000


def test_bytes_converted_repeatedly_from_one_string_are_shared(tmp_path):
    # The string is read once, stored in the memo, and converted to bytes 500 times.
    text = b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6 + b"q\x02"
    latin = b"X\x06\x00\x00\x00latin1q\x03\x86q\x04R"
    calls = b"h\x01h\x04R" * 500
    path = saved(tmp_path / "a.pkl", b"\x80\x02](c_codecs\nencode\nq\x01" + text + latin + calls + b"e.")
    assert peak_memory(lambda: load_pickle(path)) < 10_000_000


@pytest.mark.parametrize(
    "filled",
    [b"}%bNs.", b"}(%bNu.", b"(%bNd.", b"\x8f(%b\x90.", b"(%b\x91."],
    ids=["an item", "items", "a dict", "a set", "a frozen set"],
)
def test_a_deeply_nested_key_whose_hash_would_crash_the_process_is_refused(tmp_path, filled):
    # A crash needs deeper nesting; at this depth the test itself would survive the hash.
    path = saved(tmp_path / "a.pkl", b"\x80\x04" + filled.replace(b"%b", b")" + b"\x85" * 100))
    with pytest.raises(PspError, match="a tuple as a key"):
        load_pickle(path)


def text_array(size, data):
    """The pickle of an array of one string of ``size`` characters with the bytes ``data``."""
    pickled = pickle.dumps(np.array(["ab"]), 3)
    old, new = (b"C" + bytes([len(text)]) + text for text in (np.array("ab").tobytes(), data))
    assert pickled.count(b"U2") == pickled.count(old) == 1
    return pickled.replace(b"U2", f"U{size}".encode()).replace(old, new)


@pytest.mark.parametrize("order", ["<", ">"])
def test_arrays_of_numpy_strings_are_loaded(tmp_path, order):
    texts = np.array([["müde", ""], ["S001", "\U0001f600"]], f"{order}U4")
    np.testing.assert_array_equal(load_pickle(saved(tmp_path / "a.pkl", texts)).values, texts)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (text_array(2, b"\xff" * 8), "invalid characters"),
        (text_array(2, b"\x00\x00\x11\x00" * 2), "invalid characters"),
        (text_array(2, b"a\x00\x00\x00"), "in 4 bytes"),
        (text_array(9, b"a\x00\x00\x00"), "in 4 bytes"),
        # With elements of size zero, a file could declare any number of them.
        (text_array(0, b""), "in 0 bytes"),
        (np.array([b"bytes"]), "an array of 'S5'"),
        (np.array(["2026-11-26"], "M8[D]"), "an array of 'M8'"),
        (np.zeros(1, "U2,i4"), "an array of 'V12'"),
    ],
)
def test_invalid_strings_and_arrays_of_other_types_are_refused(tmp_path, value, found):
    with pytest.raises(PspError, match=rf"a\.pkl: refused: found a pickle with .*{found}"):
        load_pickle(saved(tmp_path / "a.pkl", value))


def test_an_annotation_with_a_value_too_deeply_nested_to_print_is_excluded(tmp_path):
    deep = b"]" * 200_000 + b"a" * 199_999
    wanted = b"\x80\x04](}(X\x09\x00\x00\x00frame_dirX\x01\x00\x00\x00aX\x05\x00\x00\x00label" + deep
    value = wanted + b"X\x08\x00\x00\x00keypoint" + pickle.dumps(np.ones((1, 2, 20, 3)), 4)[2:-1] + b"ue."
    (excluded,) = read_pyskl(saved(tmp_path / "a.pkl", value)).left_out
    assert "label: found [[[" in excluded.detail


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"not a pickle", b"\x80\x09N."])
def test_a_file_that_is_not_a_pickle_is_refused(tmp_path, content):
    with pytest.raises(PspError, match=r"a\.pkl: damaged or not a pickle"):
        load_pickle(saved(tmp_path / "a.pkl", content))
