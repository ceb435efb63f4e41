"""The scanner for NTU `.skeleton` text: one walk over the bytes, without the interpreter lock.

Compiled by numba when first called, and kept on disk after that. Blocks of 64 bytes become two bit masks (blanks and
line ends); a line's fields are counted by counting bits, and only x, y, z and the joint state are converted.

Every number is bit for bit what `float` and a cast to float32 give. Digits d and a power of ten p make d * 10**p; where d
is under 2**53 and abs(p) at most 22, both are exact as float64, so one multiplication or division rounds once, correctly
(Clinger, "How to read floating point numbers accurately", PLDI 1990). All other numbers are left to `float`.

Notation: F frames, B bodies, V joints. Little-endian machines only, as all that torch is built for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

# What can be wrong, and which line was being read when it was.
FINE, TRUNCATED, LINE, NUMBER, INFINITE, STATE, BODY_ID, TRAILING = range(8)
FRAME_COUNT, BODY_COUNT, BODY_LINE, JOINT_COUNT, JOINT_LINE, REST = range(6)

BODY_FIELDS, JOINT_FIELDS = 10, 12
MAX_COUNT = 2**31 - 1
_EXACT, _HARD, _NONE = range(3)

_ONE, _ZERO, _ALL = np.uint64(1), np.uint64(0), np.uint64(2**64 - 1)
_LAST_BIT = np.uint64(63)
_ASCII_ZEROS = np.uint64(0x3030303030303030)
_POWERS = np.array([10.0**p for p in range(23)])
_INTEGER_POWERS = np.array([10**p for p in range(9)], np.uint64)
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


class Scan(NamedTuple):
    """What a file holds, or what is wrong with it.

    Attributes:
        problem: `FINE`, or what is wrong.
        stage: The line that was being read.
        offset: Where the line begins, or for a single field where the field does; bytes.
        frames: F.
        frame: int32 (B,), ascending.
        body: int64 (B,).
        xyz: float32 (B, V, 3).
        state: uint8 (B, V).
    """

    problem: int
    stage: int
    offset: int
    frames: int
    frame: NDArray[np.int32]
    body: NDArray[np.int64]
    xyz: NDArray[np.float32]
    state: NDArray[np.uint8]


def scan(blob: bytes, joints: int) -> Scan:
    """Scan a whole `.skeleton` file.

    Memory is bounded by the size of the file, whatever counts it states: a body takes at least its shortest lines.

    Args:
        blob: The file.
        joints: V, which every body must have.
    """
    shortest_body = 2 * (BODY_FIELDS + joints * JOINT_FIELDS)
    most = len(blob) // shortest_body + 1
    frame, body = np.empty(most, np.int32), np.empty(most, np.int64)
    xyz, state = np.empty((most, joints, 3), np.float32), np.empty((most, joints), np.uint8)
    problem, stage, offset, frames, bodies, hard = _scan(
        np.frombuffer(blob, np.uint8), frame, body, xyz, state
    )
    if problem == FINE and len(hard):
        problem, stage, offset = _convert(blob, hard, xyz)
    # Copies, as the arrays made above are several times longer than what a file of usual line lengths fills.
    return Scan(
        problem,
        stage,
        offset,
        frames,
        frame[:bodies].copy(),
        body[:bodies].copy(),
        xyz[:bodies].copy(),
        state[:bodies].copy(),
    )


def _convert(blob: bytes, hard: NDArray[np.int64], xyz: NDArray[np.float32]) -> tuple[int, int, int]:
    """Let `float` convert the numbers the quick way cannot promise; `hard` is (n, 3): place in xyz, begin, end."""
    values = np.array([float(blob[begin:end]) for _, begin, end in hard.tolist()])
    infinite = np.flatnonzero(~(np.abs(values) <= _MAX_FLOAT32_SAFE))
    if len(infinite):
        return INFINITE, JOINT_LINE, int(hard[infinite[0], 1])
    xyz.reshape(-1)[hard[:, 0]] = values.astype(np.float32)
    return FINE, REST, 0


# The largest float64 that a cast to float32 still rounds to a finite number lies half a step above float32's largest.
_MAX_FLOAT32_SAFE = float(np.nextafter(_MAX_FLOAT32 + 2.0**103, 0))


def _byte_mask(*wanted: int) -> Any:
    """An intrinsic (data, start) -> uint64: bit k says whether byte start + k is one of `wanted`; reads 64 bytes."""

    @intrinsic  # type: ignore[untyped-decorator]
    def mask(_context: Any, data: Any, start: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            vector = ir.VectorType(ir.IntType(8), 64)
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            place = builder.gep(array.data, [arguments[1]])
            block = builder.load(builder.bitcast(place, vector.as_pointer()), align=1)
            found = ir.Constant(ir.VectorType(ir.IntType(1), 64), [0] * 64)
            for byte in wanted:
                found = builder.or_(
                    found, builder.icmp_unsigned("==", block, ir.Constant(vector, [byte] * 64))
                )
            return builder.bitcast(found, ir.IntType(64))

        return types.uint64(data, types.intp), codegen

    return mask


def _bits(instruction: Callable[[Any, Any], Any]) -> Any:
    """An intrinsic uint64 -> int64 from one LLVM instruction on bits."""

    @intrinsic  # type: ignore[untyped-decorator]
    def function(_context: Any, word: Any) -> Any:
        def codegen(_target: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return instruction(builder, arguments[0])

        return types.int64(types.uint64), codegen

    return function


_blank_mask = _byte_mask(0x20, 0x09, 0x0D, 0x0A)
_newline_mask = _byte_mask(0x0A)
_count_ones = _bits(lambda builder, word: builder.ctpop(word))
_lowest = _bits(lambda builder, word: builder.cttz(word, ir.Constant(ir.IntType(1), 0)))
_zeros_above = _bits(lambda builder, word: builder.ctlz(word, ir.Constant(ir.IntType(1), 0)))


@intrinsic  # type: ignore[untyped-decorator]
def _eight_bytes(_context: Any, data: Any, _start: Any) -> Any:
    """(data, start) -> uint64: the 8 bytes from `start`, the first one lowest."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.gep(array.data, [arguments[1]])
        return builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(data, types.intp), codegen


@njit(inline="always")  # type: ignore[untyped-decorator]
def _is_blank(byte):  # type: ignore[no-untyped-def]
    return byte == 0x20 or byte == 0x09 or byte == 0x0D or byte == 0x0A


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _masks(data, start):  # type: ignore[no-untyped-def]
    """Blanks and line ends of the 64 bytes from `start`; past the end of the file all is blank, and a line ends there."""
    size = data.shape[0]
    if start + 64 <= size:
        return _blank_mask(data, start), _newline_mask(data, start)
    blank, newline = _ALL << np.uint64(size - start), _ONE << np.uint64(size - start)
    for k in range(size - start):
        byte = data[start + k]
        if _is_blank(byte):
            blank |= _ONE << np.uint64(k)
        if byte == 0x0A:
            newline |= _ONE << np.uint64(k)
    return blank, newline


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _line(data, start):  # type: ignore[no-untyped-def]
    """Fields of the line, its end, where its last field begins, and where fields begin and end in its first 64 bytes."""
    blank, newline = _masks(data, start)
    before = (blank << _ONE) | _ONE
    begins, first_ends = ~blank & before, blank & ~before
    first_begins, base, fields, last = begins, start, 0, start
    while newline == _ZERO:
        fields += _count_ones(begins)
        if begins != _ZERO:
            last = base + 63 - _zeros_above(begins)
        carried = blank >> _LAST_BIT
        base += 64
        blank, newline = _masks(data, base)
        begins = ~blank & ((blank << _ONE) | carried)
    begins &= (newline & (~newline + _ONE)) - _ONE
    fields += _count_ones(begins)
    if begins != _ZERO:
        last = base + 63 - _zeros_above(begins)
    return fields, base + _lowest(newline), last, first_begins, first_ends


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _next_field(data, start, end):  # type: ignore[no-untyped-def]
    """Begin and end of the field that begins at `start` or after, before `end`; byte by byte, for odd lines."""
    while start < end and _is_blank(data[start]):
        start += 1
    stop = start
    while stop < end and not _is_blank(data[stop]):
        stop += 1
    return start, stop


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _whole(data, start, end):  # type: ignore[no-untyped-def]
    """(whether it is an integer within int64, its value) of a field such as ``-12``; the smallest int64 is left out."""
    negative = data[start] == 0x2D
    if negative or data[start] == 0x2B:
        start += 1
    value = np.int64(0)
    if start == end:
        return False, value
    for k in range(start, end):
        digit = np.int64(data[k]) - 48
        if digit < 0 or digit > 9 or value > (2**63 - 1 - digit) // 10:
            return False, value
        value = value * 10 + digit
    return True, -value if negative else value


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _count(data, start):  # type: ignore[no-untyped-def]
    """A line that holds one count: (the count or -1, the line's end)."""
    fields, end, last, _, _ = _line(data, start)
    if fields != 1:
        return -1, end
    begin, stop = _next_field(data, last, end)
    is_whole, value = _whole(data, begin, stop)
    if not is_whole or value > MAX_COUNT:
        return -1, end
    return value, end


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _digits(data, start, end, mantissa, exact):  # type: ignore[no-untyped-def]
    """Take the digits from `start` into `mantissa`: (where they stop, mantissa, whether none was lost)."""
    while start < end:
        digit = np.uint64(data[start]) - np.uint64(48)
        if digit > np.uint64(9):
            break
        if mantissa < np.uint64(10**18):
            mantissa = mantissa * np.uint64(10) + digit
        else:
            exact = False
        start += 1
    return start, mantissa, exact


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _number(data, start, end):  # type: ignore[no-untyped-def]
    """Any decimal number: (`_EXACT`, `_HARD` or `_NONE`, its value where exact)."""
    negative = data[start] == 0x2D
    if negative or data[start] == 0x2B:
        start += 1
    first, mantissa, exact = start, _ZERO, True
    start, mantissa, exact = _digits(data, start, end, mantissa, exact)
    found, exponent = start - first, 0
    if start < end and data[start] == 0x2E:
        dot = start
        start, mantissa, exact = _digits(data, start + 1, end, mantissa, exact)
        exponent = dot + 1 - start
        found -= exponent
    if found == 0:
        return _NONE, 0.0
    if start < end and (data[start] == 0x65 or data[start] == 0x45):
        start += 1
        down = start < end and data[start] == 0x2D
        if start < end and (down or data[start] == 0x2B):
            start += 1
        first = start
        start, power, short = _digits(data, start, end, _ZERO, True)
        if start == first:
            return _NONE, 0.0
        exact = exact and short and power < np.uint64(1000)
        if exact:
            exponent += -np.int64(power) if down else np.int64(power)
    if start != end:
        return _NONE, 0.0
    if not exact or mantissa >= np.uint64(2**53) or exponent > 22 or exponent < -22:
        return _HARD, 0.0
    value = np.float64(mantissa)
    value = value / _POWERS[-exponent] if exponent < 0 else value * _POWERS[exponent]
    return _EXACT, -value if negative else value


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _coordinate(data, start, end):  # type: ignore[no-untyped-def]
    """As `_number`; quick for one digit, a point and one to eight digits, which nearly all coordinates are."""
    negative = data[start] == 0x2D
    first = start + 1 if negative else start
    length = end - first - 2
    if length < 1 or length > 8 or first + 10 > data.shape[0] or data[first + 1] != 0x2E:
        return _number(data, start, end)
    leading = np.uint64(data[first]) - np.uint64(48)
    missing = np.uint64(64 - 8 * length)
    word = (_eight_bytes(data, first + 2) << missing) | (_ASCII_ZEROS & ((_ONE << missing) - _ONE))
    word -= _ASCII_ZEROS
    # A byte above 9 either has its top bit set, or gets it by adding 0x76 (to 0x7f and above none carries over: the
    # top bit is looked at first).
    if leading > np.uint64(9) or (word | (word + np.uint64(0x7676767676767676))) & np.uint64(
        0x8080808080808080
    ):
        return _number(data, start, end)
    word = word * np.uint64(10) + (word >> np.uint64(8))
    pairs = np.uint64(0x000000FF000000FF)
    word = (word & pairs) * np.uint64(100 + (1000000 << 32)) + ((word >> np.uint64(16)) & pairs) * np.uint64(
        1 + (10000 << 32)
    )
    value = np.float64(leading * _INTEGER_POWERS[length] + (word >> np.uint64(32))) / _POWERS[length]
    return _EXACT, -value if negative else value


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _grow(hard):  # type: ignore[no-untyped-def]
    longer = np.empty((2 * hard.shape[0], 3), np.int64)
    longer[: hard.shape[0]] = hard
    return longer


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _joint(data, start, xyz, place, state, hard, hards):  # type: ignore[no-untyped-def]
    """One joint line into `xyz` and `state` at `place`: (problem, offset, the line's end, hard, hards)."""
    fields, end, last, begins, ends = _line(data, start)
    if fields != JOINT_FIELDS:
        cut_off = fields < JOINT_FIELDS and end == data.shape[0]
        return TRUNCATED if cut_off else LINE, start, end, hard, hards
    near, stop = _count_ones(ends) >= 3, start
    for c in range(3):
        if near:
            begin, stop = start + _lowest(begins), start + _lowest(ends)
            begins &= begins - _ONE
            ends &= ends - _ONE
        else:
            begin, stop = _next_field(data, stop, end)
        kind, value = _coordinate(data, begin, stop)
        if kind == _EXACT:
            if abs(value) > _MAX_FLOAT32_SAFE:
                return INFINITE, begin, end, hard, hards
            xyz[3 * place + c] = np.float32(value)
        elif kind == _HARD:
            if hards == hard.shape[0]:
                hard = _grow(hard)
            hard[hards, 0], hard[hards, 1], hard[hards, 2] = 3 * place + c, begin, stop
            hards += 1
        else:
            return NUMBER, begin, end, hard, hards
    digit = np.int64(data[last]) - 48
    if digit < 0 or digit > 2 or (last + 1 < end and not _is_blank(data[last + 1])):
        return STATE, last, end, hard, hards
    state[place] = digit
    return FINE, start, end, hard, hards


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _body(data, start):  # type: ignore[no-untyped-def]
    """One body line: (problem, offset, id, the line's end)."""
    fields, end, _, _, _ = _line(data, start)
    if fields != BODY_FIELDS:
        cut_off = fields < BODY_FIELDS and end == data.shape[0]
        return TRUNCATED if cut_off else LINE, start, np.int64(0), end
    begin, stop = _next_field(data, start, end)
    is_whole, identity = _whole(data, begin, stop)
    return FINE if is_whole else BODY_ID, begin, identity, end


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _scan(data, frame, body, xyz, state):  # type: ignore[no-untyped-def]
    """Fill the arrays: (problem, stage, offset, frames, bodies, hard numbers (n, 3): place in xyz, begin, end)."""
    size, joints = data.shape[0], xyz.shape[1]
    flat, states = xyz.reshape(-1), state.reshape(-1)
    hard, hards, bodies = np.empty((8, 3), np.int64), 0, 0
    frames, end = _count(data, 0)
    if frames < 0:
        return LINE, FRAME_COUNT, 0, 0, 0, hard[:0]
    for t in range(frames):
        start = end + 1
        if start >= size:
            return TRUNCATED, BODY_COUNT, size, frames, 0, hard[:0]
        here, end = _count(data, start)
        if here < 0:
            return LINE, BODY_COUNT, start, frames, 0, hard[:0]
        for _ in range(here):
            start = end + 1
            if start >= size:
                return TRUNCATED, BODY_LINE, size, frames, 0, hard[:0]
            problem, offset, identity, end = _body(data, start)
            if problem != FINE:
                return problem, BODY_LINE, offset, frames, 0, hard[:0]
            frame[bodies], body[bodies] = t, identity
            start = end + 1
            if start >= size:
                return TRUNCATED, JOINT_COUNT, size, frames, 0, hard[:0]
            stated, end = _count(data, start)
            if stated != joints:
                return TRUNCATED if end == size else LINE, JOINT_COUNT, start, frames, 0, hard[:0]
            for j in range(joints):
                start = end + 1
                if start >= size:
                    return TRUNCATED, JOINT_LINE, size, frames, 0, hard[:0]
                problem, offset, end, hard, hards = _joint(
                    data, start, flat, bodies * joints + j, states, hard, hards
                )
                if problem != FINE:
                    return problem, JOINT_LINE, offset, frames, 0, hard[:0]
            bodies += 1
    while end < size and _is_blank(data[end]):
        end += 1
    if end < size:
        return TRAILING, REST, end, frames, 0, hard[:0]
    return FINE, REST, size, frames, bodies, hard[:hards]
