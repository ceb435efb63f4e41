"""Safe loading of untrusted pickle files with numpy arrays, numbers, strings, lists, tuples and dicts.

A pickle is a program that may call any importable function. Here every global name is looked up in a short list of
replacement functions of this module, so a pickle cannot call numpy or any other library. The arguments are checked:
arrays cannot be larger than their bytes in the file.

The interpreter is the standard library's Python implementation. The C implementation allocates a table whose size is
the largest memo index in the file.
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

from psptool.common.errors import PspError, cannot_read
from psptool.common.paths import regular_size

_KINDS = "fiubU"
"""Allowed dtype kinds: floats, signed and unsigned integers, booleans, strings."""
_LAST_CHARACTER = 0x10FFFF
_DEEPEST = 1000
_PLAIN = (str, bytes, int, float, type(None))
_KEYS = {
    pickle.SETITEM: slice(-2, -1),
    pickle.SETITEMS: slice(0, None, 2),
    pickle.DICT: slice(0, None, 2),
    pickle.ADDITEMS: slice(None),
    pickle.FROZENSET: slice(None),
}
"""Opcodes that hash values, and the place of the hashed values on the stack."""


class Refused(Exception):
    """A pickle requests something that is not allowed."""


def load_pickle(path: Path) -> Any:
    """Load a pickle; arrays are returned as `PickledArray`.

    Raises:
        PspError: The file cannot be read, is damaged, or contains objects other than arrays and built-in types.
    """
    try:
        size = regular_size(path)
        with path.open("rb") as file:
            return _Unpickler(_Bounded(file, size)).load()
    except OSError as error:
        raise cannot_read(path, error) from error
    except Refused as error:
        raise PspError(
            f"{path}: refused",
            f"a pickle with {error}",
            "arrays, numbers, strings, lists and dicts only",
            "Other pickles can execute arbitrary code. Save the file again without custom classes.",
        ) from error
    except Exception as error:
        # Damaged bytes may raise almost any exception.
        raise PspError(
            f"{path}: damaged or not a pickle file ({type(error).__name__}: {error})",
            fix="Copy it again from its source.",
        ) from error


class _Bounded:
    """A file that refuses to read more bytes than it has left, before memory is allocated for them."""

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


class _AllowedFunction:
    """A function that a pickle may call but not modify."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise Refused("a modified function")


class _Dtype:
    """A dtype of numbers or strings."""

    __slots__ = ("code",)

    def __init__(self, code: object, *_: object) -> None:
        dtype = np.dtype(code) if isinstance(code, str) and len(code) <= 12 else None
        if dtype is None or dtype.kind not in _KINDS:
            raise Refused(f"an array of {short_repr(code)}")
        self.code = dtype.str

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, size, alignment, flags). Only the byte order matters here: the
        # size of a string is in its type code too.
        _, order, *parts = state
        if order not in ("<", ">", "=", "|") or any(part is not None for part in parts[:3]):
            raise Refused("an array with fields")
        if order in ("<", ">"):
            self.code = order + self.code[1:]


class _Texts:
    """Converts strings to the bytes that they encode in pickles of protocols 0 to 2.

    Each string is converted once; otherwise a file could request many copies of a long one.
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
    """An array in a pickle.

    Attributes:
        values: The array, read-only; it shares the memory of the bytes read.
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
    """An array that shares the memory of ``data``.

    Raises:
        Refused: ``data`` does not contain numbers or strings of this dtype and shape.
    """
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise Refused(f"an array of {type(data).__name__}")
    plain = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    if not plain or order not in ("C", "F"):
        raise Refused(f"an array of shape {short_repr(shape)}")
    assert isinstance(shape, tuple)
    plain_dtype = np.dtype(dtype.code)
    if plain_dtype.itemsize == 0 and not shape:
        return np.zeros((), plain_dtype)  # an empty string
    if plain_dtype.itemsize == 0 or math.prod(shape) * plain_dtype.itemsize != len(data):
        raise Refused(f"an array of shape {shape} in {len(data)} bytes")
    values = np.frombuffer(data, plain_dtype)
    if plain_dtype.kind == "U" and (values.view(f"{plain_dtype.byteorder}u4") > _LAST_CHARACTER).any():
        raise Refused("an array of strings with invalid characters")
    values.flags.writeable = False
    return values.reshape(shape, order="F" if order == "F" else "C")


def _class(*_: object) -> None:
    raise Refused("a call of numpy.ndarray")


def _allowed_functions(texts: _Texts) -> Mapping[tuple[str, str], _AllowedFunction]:
    """The functions that a pickle may call, by module and name."""
    ndarray = _AllowedFunction(_class)

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
            raise Refused("a call of bytes with arguments")
        return b""

    functions: dict[tuple[str, str], Callable[..., Any]] = {
        ("multiarray", "_reconstruct"): reconstruct,
        ("multiarray", "scalar"): scalar,
        ("numeric", "_frombuffer"): from_buffer,
    }
    return {
        ("numpy", "ndarray"): ndarray,
        ("numpy", "dtype"): _AllowedFunction(_Dtype),
        ("_codecs", "encode"): _AllowedFunction(encoded),
        # Protocols 0 to 2 write the bytes of an empty array as a call of bytes().
        ("__builtin__", "bytes"): _AllowedFunction(no_bytes),
        # NumPy 2 renamed numpy.core to numpy._core.
        **{
            (f"numpy.{core}.{module}", name): _AllowedFunction(function)
            for core in ("core", "_core")
            for (module, name), function in functions.items()
        },
    }


def short_repr(value: object) -> str:
    """A short representation of a value, even if it is deeply nested."""
    return f"{reprlib.repr(value):.40}"


def _check_keys(keys: Iterable[object]) -> None:
    """Refuse keys of dicts and sets that are not plain values: hashing a deeply nested key crashes Python."""
    for key in keys:
        if not isinstance(key, _PLAIN):
            raise Refused(f"a {type(key).__name__} as a key")


def _with_plain_keys(code: bytes, which: slice) -> Callable[[Any], None]:
    """The standard library's function for an opcode that creates or fills a dict or set, with a check of the keys.

    Args:
        code: The opcode.
        which: Positions of the keys among the stack values since the last mark.
    """
    usual: Callable[[Any], None] = pickle._Unpickler.dispatch[code[0]]  # type: ignore[attr-defined,unused-ignore]

    def load(self: Any) -> None:
        _check_keys(self.stack[which])
        usual(self)

    return load


class _Unpickler(pickle._Unpickler):  # type: ignore[misc,name-defined,unused-ignore]
    """The standard library's interpreter, restricted to the allowed functions."""

    def __init__(self, file: _Bounded) -> None:
        super().__init__(file, encoding="latin1")
        self._allowed = _allowed_functions(_Texts())

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise Refused(f"{module}.{name}") from None

    def persistent_load(self, _: object) -> Any:
        raise Refused("an object outside the file")

    def get_extension(self, code: int) -> None:
        raise Refused(f"the registered extension {code}")

    def load_bytearray8(self: Any) -> None:
        # The standard library allocates the stated size before it checks that the bytes exist.
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_dup(self) -> None:
        # No program writes this opcode, and a file of nothing else fills the memory.
        raise Refused("an opcode that repeats a value")

    def load_mark(self: Any) -> None:
        if len(self.metastack) > _DEEPEST:
            raise Refused("more than 1,000 nested values")
        pickle._Unpickler.load_mark(self)  # type: ignore[attr-defined,unused-ignore]

    dispatch: ClassVar[Any] = {
        **pickle._Unpickler.dispatch,  # type: ignore[attr-defined,unused-ignore]
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.DUP[0]: load_dup,
        pickle.MARK[0]: load_mark,
        **{code[0]: _with_plain_keys(code, which) for code, which in _KEYS.items()},
    }
