"""Pickles of a file that one was handed: numpy arrays, numbers, text, lists, tuples and dicts, and nothing else.

A pickle is a program that may call whatever can be imported. Here every name that it asks for is looked up in a
list of a few, and what stands there are stand-ins of this module: a pickle reaches neither numpy nor any other
library. Their arguments are checked, so that an array cannot be larger than the bytes that the file has for it,
and that all arrays together are not.
The interpreter is the standard library's one in Python, since the one in C keeps a table as large as the
largest number in the file.
"""

from __future__ import annotations

import math
import pickle
import reprlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import PspError

_KINDS = "fiubU"
"""Kinds of values that arrays may hold: floats, integers with and without sign, truth values, texts."""
_LAST_CHARACTER = 0x10FFFF
_PLAIN = (str, bytes, int, float, type(None))
_KEYS = {
    pickle.SETITEM: slice(-2, -1),
    pickle.SETITEMS: slice(0, None, 2),
    pickle.DICT: slice(0, None, 2),
    pickle.ADDITEMS: slice(None),
    pickle.FROZENSET: slice(None),
}
"""Codes that hash values, and where these lie."""


class Refused(Exception):
    """What a pickle asks for that is neither an array nor built in."""


def load_pickle(path: Path) -> Any:
    """What a pickle holds, with a `PickledArray` in the place of each array.

    Raises:
        PspError: The file cannot be read, is no whole pickle, or asks for anything but arrays and what is built in.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(_Bounded(file, path.stat().st_size)).load()
    except OSError as error:
        raise PspError(
            f"{path}: cannot be read ({error.strerror or error})", fix="Check the path."
        ) from error
    except Refused as error:
        raise PspError(
            f"{path}: refused",
            f"a pickle that asks for {error}",
            "arrays, numbers, text, lists and dicts only",
            "Other pickles can run any program: have whoever wrote the file save it without its own classes.",
        ) from error
    except Exception as error:
        # Damaged bytes may raise about anything, and none of it says more than this.
        raise PspError(
            f"{path}: not a pickle that can be read ({type(error).__name__}: {error})",
            fix="Copy it again from its source.",
        ) from error


class _Bounded:
    """A file that gives no more bytes than it has, so that nobody sets memory aside for more."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._left:
            raise EOFError(f"{size} bytes announced, {self._left} left in the file")
        self._left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline()
        self._left -= len(line)
        return line


class _StandIn:
    """A function that a pickle may call, and of which it can change nothing."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise Refused("a change of a function")


class _Dtype:
    """A dtype of plain numbers or of texts."""

    __slots__ = ("code",)

    def __init__(self, code: object, *_: object) -> None:
        dtype = np.dtype(code) if isinstance(code, str) and len(code) <= 12 else None
        if dtype is None or dtype.kind not in _KINDS:
            raise Refused(f"an array of {short_repr(code)}")
        self.code = dtype.str

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, size, alignment, flags); a simple value has none of it
        # but the order, and of a text's size and alignment the code says as much.
        _, order, *parts = state
        if order not in ("<", ">", "=", "|") or any(part is not None for part in parts[:3]):
            raise Refused("an array with fields")
        if order in ("<", ">"):
            self.code = order + self.code[1:]


class _Texts:
    """Bytes that stand as text, as in pickles of the protocols 0 to 2.

    One text is turned into bytes once: else a file could ask for many copies of its longest one.
    """

    def __init__(self) -> None:
        self._known: dict[str, bytes] = {}

    def bytes_of(self, data: object) -> object:
        if not isinstance(data, str):
            return data
        if data not in self._known:
            self._known[data] = data.encode("latin1")
        return self._known[data]


class PickledArray:
    """An array of a pickle.

    Attributes:
        values: It; it shares the memory of the bytes that were read and cannot be changed.
    """

    __slots__ = ("_texts", "values")

    def __init__(self, texts: _Texts, values: NDArray[Any] | None = None) -> None:
        self._texts = texts
        self.values: NDArray[Any] = np.empty(0) if values is None else values

    def __repr__(self) -> str:
        return f"array {self.values.shape}"

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.values = _array(self._texts.bytes_of(data), dtype, shape, "F" if fortran else "C")


def _array(data: object, dtype: object, shape: object, order: object) -> NDArray[Any]:
    """An array over ``data``.

    Raises:
        Refused: These are not the bytes of numbers or texts in that shape.
    """
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise Refused(f"an array of {type(data).__name__}")
    plain = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not plain or order not in ("C", "F"):
        raise Refused(f"an array of shape {short_repr(shape)}")
    assert isinstance(shape, tuple)
    plain_dtype = np.dtype(dtype.code)
    if plain_dtype.itemsize == 0 and not shape:
        return np.zeros((), plain_dtype)  # An empty text.
    if plain_dtype.itemsize == 0 or math.prod(shape) * plain_dtype.itemsize != len(data):
        raise Refused(f"an array of shape {shape} in {len(data)} bytes")
    values = np.frombuffer(data, plain_dtype)
    if plain_dtype.kind == "U" and (values.view(f"{plain_dtype.byteorder}u4") > _LAST_CHARACTER).any():
        raise Refused("an array of texts with characters that there are none of")
    values.flags.writeable = False
    return values.reshape(shape, order="F" if order == "F" else "C")


def _class(*_: object) -> None:
    raise Refused("an array made anew")


def _stand_ins(texts: _Texts) -> Mapping[tuple[str, str], _StandIn]:
    """What a pickle may ask for, by module and name."""
    ndarray = _StandIn(_class)

    def reconstruct(kind: object, shape: object, _: object) -> PickledArray:
        if kind is not ndarray or shape != (0,):
            raise Refused(f"an empty array of shape {short_repr(shape)}")
        return PickledArray(texts)

    def from_buffer(data: object, dtype: object, shape: object, order: object) -> PickledArray:
        return PickledArray(texts, _array(data, dtype, shape, order))

    def scalar(dtype: object, data: object) -> Any:
        return _array(texts.bytes_of(data), dtype, (), "C").item()

    def encoded(text: object, encoding: object) -> object:
        if encoding != "latin1":
            raise Refused(f"text encoded as {short_repr(encoding)}")
        return texts.bytes_of(text)

    def no_bytes(*arguments: object) -> bytes:
        if arguments:
            raise Refused("bytes made anew")
        return b""

    functions: dict[tuple[str, str], Callable[..., Any]] = {
        ("multiarray", "_reconstruct"): reconstruct,
        ("multiarray", "scalar"): scalar,
        ("numeric", "_frombuffer"): from_buffer,
    }
    return {
        ("numpy", "ndarray"): ndarray,
        ("numpy", "dtype"): _StandIn(_Dtype),
        ("_codecs", "encode"): _StandIn(encoded),
        # As the protocols 0 to 2 write the bytes of an empty array.
        ("__builtin__", "bytes"): _StandIn(no_bytes),
        # NumPy 2 moved its inner modules.
        **{
            (f"numpy.{core}.{module}", name): _StandIn(function)
            for core in ("core", "_core")
            for (module, name), function in functions.items()
        },
    }


def short_repr(value: object) -> str:
    """A value in few words, however deep it is nested."""
    return f"{reprlib.repr(value):.40}"


def _check_keys(keys: Iterable[object]) -> None:
    """Refuse keys of dicts and sets that are no plain values: Python's hash of a deep one ends the process."""
    for key in keys:
        if not isinstance(key, _PLAIN):
            raise Refused(f"a {type(key).__name__} as a key")


def _with_plain_keys(code: bytes, which: slice) -> Callable[[Any], None]:
    """The library's function for a code that makes or fills dicts or sets, which looks at their keys first.

    Args:
        code: Of the pickle's language.
        which: Where the keys lie among the values since the last mark.
    """
    usual: Callable[[Any], None] = pickle._Unpickler.dispatch[code[0]]  # type: ignore[attr-defined,unused-ignore]

    def load(self: Any) -> None:
        _check_keys(self.stack[which])
        usual(self)

    return load


class _Unpickler(pickle._Unpickler):  # type: ignore[misc,name-defined,unused-ignore]
    """The standard library's interpreter with a short list of names."""

    def __init__(self, file: _Bounded) -> None:
        super().__init__(file, encoding="latin1")
        self._stand_ins = _stand_ins(_Texts())

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._stand_ins[module, name]
        except KeyError:
            raise Refused(f"{module}.{name}") from None

    def persistent_load(self, _: object) -> Any:
        raise Refused("an object outside the file")

    def get_extension(self, code: int) -> None:
        raise Refused(f"the registered extension {code}")

    def load_bytearray8(self: Any) -> None:
        # The library's own sets memory aside before it looks whether there is anything to read.
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch: ClassVar[Any] = {
        **pickle._Unpickler.dispatch,  # type: ignore[attr-defined,unused-ignore]
        pickle.BYTEARRAY8[0]: load_bytearray8,
        **{code[0]: _with_plain_keys(code, which) for code, which in _KEYS.items()},
    }
