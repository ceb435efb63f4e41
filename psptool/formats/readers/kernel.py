"""The compiled part of the scanners of NTU files and of tables: a single pass over the bytes, without the interpreter
lock.

Blocks of 64 bytes are converted to two bit masks (blanks, line ends). Fields are counted by counting bits, and only x,
y, z and the tracking state are converted. A number with digits d and decimal exponent p has the value d * 10**p. If d
is below 2**53 and abs(p) at most 22, both factors are exact in float64, so one multiplication or division gives the
correctly rounded value (Clinger, "How to read floating point numbers accurately", PLDI 1990). All other numbers are
marked as hard and converted by `float`.

All functions are in one file, because numba's disk cache detects changes only in the file of the cached function. Bit
operations use uint64 on both sides, because numba converts a uint64 and an int to float64. The code requires a
little-endian machine, as do all builds of PyTorch.

Notation: F frames, B bodies, V joints; ``data`` is uint8 (number of bytes,).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped, call-arg, call-overload"
# Compiled functions get their types from numba, and numba's own annotations differ between its versions.

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from psptool.formats.readers.text import LARGEST_FLOAT32

# Problem codes, and the stage: the kind of line in which the problem is.
FINE, TRUNCATED, LINE, NUMBER, INFINITE, STATE, BODY_ID, TRAILING = range(8)
FRAME_COUNT, BODY_COUNT, BODY_LINE, JOINT_COUNT, JOINT_LINE, REST = range(6)
FIELDS, TEXTS = 8, 9
"""Further problem codes of `scan_table`: a row with another number of fields; too many different texts."""

BODY_FIELDS, JOINT_FIELDS = 10, 12
MAX_COUNT = 2**31 - 1
HARD = 16
"""A tracking state has the bit ``HARD << c`` if coordinate c is hard; ``xyz`` then holds its byte offset."""

# Forced, because LLVM would not inline most of these functions, and the calls take as long as their bodies.
_inlined = njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)

_EXACT, _HARD, _NONE = range(3)
_NEWLINE, _PLUS, _MINUS, _POINT, _E, _SMALL_E = (np.uint8(ord(character)) for character in "\n+-.Ee")
_SMALL_N, _SMALL_A, _LOWER = np.uint8(ord("n")), np.uint8(ord("a")), np.uint8(0x20)
_TRUE = np.bool_(True)
_ZERO, _ONE, _ALL = np.uint64(0), np.uint64(1), np.uint64(2**64 - 1)
_MOST_EXACT = np.uint64(2**53)
_POWERS = np.array([float(10**p) for p in range(23)])
_WHOLE_POWERS = np.array([10**p for p in range(9)], np.uint64)


def _byte_mask(*wanted):
    """An intrinsic (data, start) -> uint64 whose bit k is set if byte start + k is in ``wanted``, 0 <= k < 64."""

    @intrinsic
    def mask(_context, data, start):
        def codegen(context, builder, signature, arguments):
            vector = ir.VectorType(ir.IntType(8), 64)
            block = _load(context, builder, signature, arguments, vector)
            found = ir.Constant(ir.VectorType(ir.IntType(1), 64), [0] * 64)
            for byte in wanted:
                same = builder.icmp_unsigned("==", block, ir.Constant(vector, [byte] * 64))
                found = builder.or_(found, same)
            return builder.bitcast(found, ir.IntType(64))

        return types.uint64(data, types.intp), codegen

    return mask


def _load(context, builder, signature, arguments, kind):
    """LLVM code that loads an unaligned value of type ``kind`` from a byte array; arguments are (data, start)."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    place = builder.gep(array.data, [arguments[1]])
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=1)


@intrinsic
def _eight_bytes(_context, data, start):
    """(data, start) -> uint64: the 8 bytes from ``start``, in little-endian order."""

    def codegen(context, builder, signature, arguments):
        return _load(context, builder, signature, arguments, ir.IntType(64))

    return types.uint64(data, types.intp), codegen


def _on_bits(instruction):
    """An intrinsic uint64 -> int64 from an LLVM instruction."""

    @intrinsic
    def function(_context, word):
        def codegen(_target, builder, _signature, arguments):
            return instruction(builder, arguments[0])

        return types.int64(types.uint64), codegen

    return function


_blank_mask = _byte_mask(*b" \t\r\n")
_newline_mask = _byte_mask(*b"\n")
_ones = _on_bits(lambda builder, word: builder.ctpop(word))
_lowest = _on_bits(lambda builder, word: builder.cttz(word, ir.Constant(ir.IntType(1), 0)))
_zeros_above = _on_bits(lambda builder, word: builder.ctlz(word, ir.Constant(ir.IntType(1), 0)))


@_inlined
def _is_blank(byte):
    return byte == 0x20 or byte == 0x09 or byte == 0x0D or byte == 0x0A


@_inlined
def _masks(data, start):
    """Bit masks of the blanks and line ends in 64 bytes. Bytes after the end of the file are blank and end a line."""
    size = data.shape[0]
    if start + 64 <= size:
        return _blank_mask(data, start), _newline_mask(data, start)
    blank, newline = _ALL << np.uint64(size - start), _ONE << np.uint64(size - start)
    for k in range(size - start):
        bit = _ONE << np.uint64(k)
        if _is_blank(data[start + k]):
            blank |= bit
        if data[start + k] == _NEWLINE:
            newline |= bit
    return blank, newline


@_inlined
def _line(data, start):
    """Scan one line: (number of fields, end of the line, begin of the last field, begin mask, end mask).

    The masks mark where fields begin and end in the first 64 bytes of the line.
    """
    blank, newline = _masks(data, start)
    # A field begins at a non-blank byte after a blank one, and ends at a blank byte after a non-blank one.
    before = (blank << _ONE) | _ONE
    begins, ends = ~blank & before, blank & ~before
    first_begins, base, fields, last = begins, start, 0, start
    while newline == _ZERO:
        fields += _ones(begins)
        if begins != _ZERO:
            last = base + 63 - _zeros_above(begins)
        carried = blank >> np.uint64(63)
        base += 64
        blank, newline = _masks(data, base)
        begins = ~blank & ((blank << _ONE) | carried)
    # Keep only the bits below the lowest line end.
    begins &= (newline & (~newline + _ONE)) - _ONE
    fields += _ones(begins)
    if begins != _ZERO:
        last = base + 63 - _zeros_above(begins)
    return fields, base + _lowest(newline), last, first_begins, ends


@_inlined
def _next_field(data, start, end):
    """Begin and end of the next field from ``start`` on, byte by byte; for lines without the usual layout."""
    while start < end and _is_blank(data[start]):
        start += 1
    stop = start
    while stop < end and not _is_blank(data[stop]):
        stop += 1
    return start, stop


@_inlined
def _whole(data, start, end):
    """(whether the field is an integer, its value). Accepts all of int64 except its minimum."""
    negative = data[start] == _MINUS
    if negative or data[start] == _PLUS:
        start += 1
    value = np.int64(0)
    for k in range(start, end):
        digit = np.int64(data[k]) - 48
        if digit < 0 or digit > 9 or value > (2**63 - 1 - digit) // 10:
            return False, value
        value = value * 10 + digit
    return start < end, -value if negative else value


@_inlined
def _count(data, start):
    """Parse a line with a single count: (problem, count, end of the line)."""
    fields, end, last, _, _ = _line(data, start)
    if fields == 0 and end == data.shape[0]:
        return TRUNCATED, 0, end
    begin, stop = _next_field(data, last, end)
    if fields != 1:
        return LINE, 0, end
    is_whole, value = _whole(data, begin, stop)
    return FINE if is_whole and 0 <= value <= MAX_COUNT else LINE, value, end


@_inlined
def _digits(data, start, end, mantissa, exact):
    """Append digits to ``mantissa``: (end of the digits, mantissa, whether all digits fit)."""
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


@_inlined
def _is_nan(data, start, end):
    """Whether a field without its sign is ``nan``, in upper or lower case."""
    return (
        end == start + 3
        and (data[start] | _LOWER) == _SMALL_N
        and (data[start + 1] | _LOWER) == _SMALL_A
        and (data[start + 2] | _LOWER) == _SMALL_N
    )


@_inlined
def _number(data, start, end, most):
    """Parse any decimal number or NaN: (`_EXACT`, `_HARD` or `_NONE`, value if exact).

    Numbers are exact up to ``most`` = 2**53, the digits as an integer. Up to a larger ``most`` the digits are rounded
    to float64 first, so that the value has an error of up to one unit in the last place.
    """
    negative = data[start] == _MINUS
    if negative or data[start] == _PLUS:
        start += 1
    first, whole, exponent = start, start, 0
    start, mantissa, exact = _digits(data, start, end, _ZERO, _TRUE)
    found = start - first
    if start < end and data[start] == _POINT:
        first = start + 1
        start, mantissa, exact = _digits(data, first, end, mantissa, exact)
        exponent = first - start
        found += start - first
    if found == 0:
        return (_EXACT, np.nan) if _is_nan(data, whole, end) else (_NONE, 0.0)
    if start < end and (data[start] == _SMALL_E or data[start] == _E):
        start += 1
        down = start < end and data[start] == _MINUS
        if start < end and (down or data[start] == _PLUS):
            start += 1
        first = start
        start, power, short = _digits(data, start, end, _ZERO, _TRUE)
        if start == first:
            return _NONE, 0.0
        exact = exact and short and power < np.uint64(1000)
        if exact:
            exponent += -np.int64(power) if down else np.int64(power)
    if start != end:
        return _NONE, 0.0
    if not exact or mantissa >= most or exponent > 22 or exponent < -22:
        return _HARD, 0.0
    value = np.float64(mantissa)
    value = value / _POWERS[-exponent] if exponent < 0 else value * _POWERS[exponent]
    return _EXACT, -value if negative else value


@_inlined
def _eight_digits(word):
    """The decimal number from 8 bytes with values 0 to 9, first digit in the lowest byte.

    Combines neighbouring digits to pairs, then the four pairs with one multiplication for each half.
    """
    word = word * np.uint64(10) + (word >> np.uint64(8))
    high = (word & np.uint64(0x000000FF000000FF)) * np.uint64(100 + (1000000 << 32))
    low = ((word >> np.uint64(16)) & np.uint64(0x000000FF000000FF)) * np.uint64(1 + (10000 << 32))
    return (high + low) >> np.uint64(32)


@_inlined
def _coordinate(data, start, end, most):
    """As `_number`, with a fast path for one digit, a point and one to eight digits: nearly all coordinates."""
    negative = data[start] == _MINUS
    first = start + 1 if negative else start
    length = end - first - 2
    if 1 <= length <= 8 and first + 10 <= data.shape[0] and data[first + 1] == _POINT:
        zeros, missing = np.uint64(0x3030303030303030), np.uint64(64 - 8 * length)
        leading = np.uint64(data[first]) - np.uint64(48)
        word = (_eight_bytes(data, first + 2) << missing) | (zeros & ((_ONE << missing) - _ONE))
        word -= zeros
        # After the subtraction, a byte that is not a digit has its top bit set, or gets it when 0x76 is added. The
        # digits below the lowest such byte cause no borrow and no carry, so it is always detected.
        odd = (word | (word + np.uint64(0x7676767676767676))) & np.uint64(0x8080808080808080)
        if odd == _ZERO and leading <= np.uint64(9):
            value = np.float64(leading * _WHOLE_POWERS[length] + _eight_digits(word)) / _POWERS[length]
            return _EXACT, -value if negative else value
    return _number(data, start, end, most)


@_inlined
def _joint(data, start, place, xyz, offsets, state):
    """Parse a joint line to the arrays at ``place``: (problem, offset, end of the line, number of hard coordinates)."""
    fields, end, last, begins, ends = _line(data, start)
    if fields != JOINT_FIELDS:
        cut_off = fields < JOINT_FIELDS and end == data.shape[0]
        return TRUNCATED if cut_off else LINE, start, end, 0
    digit = np.int64(data[last]) - 48
    if digit < 0 or digit > 2 or (last + 1 < end and not _is_blank(data[last + 1])):
        return STATE, last, end, 0
    near, stop, hard = _ones(ends) >= 3, start, 0
    for c in range(3):
        if near:
            begin, stop = start + _lowest(begins), start + _lowest(ends)
            begins &= begins - _ONE
            ends &= ends - _ONE
        else:
            begin, stop = _next_field(data, stop, end)
        kind, value = _coordinate(data, begin, stop, _MOST_EXACT)
        if kind == _NONE:
            return NUMBER, begin, end, 0
        if abs(value) > LARGEST_FLOAT32:
            return INFINITE, begin, end, 0
        if kind == _HARD:
            offsets[3 * place + c] = begin
            digit |= HARD << c
            hard += 1
        else:
            xyz[3 * place + c] = np.float32(value)
    state[place] = digit
    return FINE, start, end, hard


@_inlined
def _body_line(data, start):
    """Parse a body line: (problem, offset, body id, end of the line)."""
    fields, end, _, _, _ = _line(data, start)
    if fields != BODY_FIELDS:
        cut_off = fields < BODY_FIELDS and end == data.shape[0]
        return TRUNCATED if cut_off else LINE, start, np.int64(0), end
    begin, stop = _next_field(data, start, end)
    is_whole, identity = _whole(data, begin, stop)
    return FINE if is_whole else BODY_ID, begin, identity, end


def _scan(data, joints, frame, body, xyz, offsets, state):
    """Parse a whole file to the flat arrays: (problem, stage, offset, F, B, number of hard coordinates)."""
    size, bodies, hard = data.shape[0], np.int64(0), 0
    problem, frames, end = _count(data, np.int64(0))
    if problem != FINE:
        return problem, FRAME_COUNT, 0, 0, 0, 0
    for t in range(frames):
        start = min(end + 1, size)
        problem, here, end = _count(data, start)
        if problem != FINE:
            return problem, BODY_COUNT, start, frames, 0, 0
        for _ in range(here):
            start = min(end + 1, size)
            problem, offset, body[bodies], end = _body_line(data, start)
            if problem != FINE:
                return problem, BODY_LINE, offset, frames, 0, 0
            start = min(end + 1, size)
            problem, stated, end = _count(data, start)
            if problem != FINE or stated != joints:
                return TRUNCATED if end == size else LINE, JOINT_COUNT, start, frames, 0, 0
            for j in range(bodies * joints, (bodies + 1) * joints):
                problem, offset, end, more = _joint(data, min(end + 1, size), j, xyz, offsets, state)
                if problem != FINE:
                    return problem, JOINT_LINE, offset, frames, 0, 0
                hard += more
            frame[bodies] = t
            bodies += 1
    while end < size and _is_blank(data[end]):
        end += 1
    return FINE if end >= size else TRAILING, REST, end, frames, bodies, hard


@_inlined
def _text_number(data, begin, end, places, count, guess):
    """Index of a field among the ``count`` texts known so far; ``count`` for a new one, -1 if there are too many.

    Args:
        data: The bytes.
        begin: First byte of the field.
        end: Byte after the field.
        places: int64 (most texts, 2), first byte and end of each known text.
        count: Number of known texts.
        guess: Index of the text that is compared first.
    """
    for k in range(count):
        number = (guess + k) % count
        first = places[number, 0]
        if places[number, 1] - first != end - begin:
            continue
        n = 0
        while n < end - begin and data[first + n] == data[begin + n]:
            n += 1
        if n == end - begin:
            return number
    return count if count < places.shape[0] else -1


def _scan_table(data, start, separator, columns, texts, counts, values, marks, rows):
    """Parse the rows of a table to ``values``: (problem, offset, number of rows, number of marked values).

    Blank lines are skipped; a line with tabs is not blank if they separate fields. An empty field is NaN. Numbers of up
    to 19 digits are converted here, with an error of up to one unit in the last place of float64; any other field is
    marked, and its value is its byte offset. A separator at the end of a row is ignored.

    Args:
        data: uint8, the bytes of the file.
        start: First byte of the rows.
        separator: uint8, the byte between fields; a space stands for any number of blanks.
        columns: int64 (columns,), index in ``values`` of each column; -1 for columns that are ignored.
        texts: int64 (columns with text, most texts, 2), output: first byte and end of each different text. The columns
            with text are the first ones of ``values``, which then holds the index of the text.
        counts: int64 (columns with text,), zeros; output: number of different texts.
        values: float64 (most rows, columns that are used), output.
        marks: uint8, as ``values``, zeros; output: 1 for the values that are offsets.
        rows: int64 (most rows,), output: byte offset of each row.
    """
    size, row, marked, place = data.shape[0], 0, 0, start
    blanks = separator == 0x20
    tab = separator == 0x09
    while place < size:
        at = place
        while at < size and _is_blank(data[at]) and data[at] != _NEWLINE and not (tab and data[at] == 0x09):
            at += 1
        if at == size:
            break
        if data[at] == _NEWLINE:
            place = at + 1
            continue
        if row == rows.shape[0]:
            return FIELDS, place, row, marked
        rows[row] = place
        if not blanks:
            at = place
        column, ended = 0, False
        while not ended:
            stop = at
            if blanks:
                while stop < size and not _is_blank(data[stop]):
                    stop += 1
                begin, end = at, stop
                while stop < size and _is_blank(data[stop]) and data[stop] != _NEWLINE:
                    stop += 1
                at = stop
                ended = stop >= size or data[stop] == _NEWLINE
            else:
                while stop < size and data[stop] != separator and data[stop] != _NEWLINE:
                    stop += 1
                begin, end = at, stop
                while begin < end and _is_blank(data[begin]):
                    begin += 1
                while end > begin and _is_blank(data[end - 1]):
                    end -= 1
                at = stop + 1
                ended = stop >= size or data[stop] == _NEWLINE
            if column >= columns.shape[0]:
                if begin == end and ended:
                    break
                return FIELDS, place, row, marked
            slot = columns[column]
            column += 1
            if slot < 0:
                continue
            if slot < counts.shape[0]:
                # Joints usually follow each other in the same order, and one person's rows are together.
                last = np.int64(values[row - 1, slot]) if row else np.int64(0)
                guess = last + 1 if slot == 0 else last
                number = _text_number(data, begin, end, texts[slot], counts[slot], guess)
                if number < 0:
                    return TEXTS, begin, row, marked
                if number == counts[slot]:
                    texts[slot, number, 0], texts[slot, number, 1] = begin, end
                    counts[slot] += 1
                values[row, slot] = number
                continue
            if begin == end:
                values[row, slot] = np.nan
                continue
            kind, value = _coordinate(data, begin, end, _ALL)
            if abs(value) > LARGEST_FLOAT32:
                return INFINITE, begin, row, marked
            if kind == _EXACT:
                values[row, slot] = value
            else:
                values[row, slot] = begin
                marks[row, slot] = 1
                marked += 1
        if column < columns.shape[0]:
            return FIELDS, place, row, marked
        row += 1
        place = stop + 1
    return FINE, place, row, marked


def _compiled(function):
    try:
        return njit(nogil=True, cache=True, no_cfunc_wrapper=True)(function)
    except RuntimeError:
        # numba has no writable folder for its cache: compile in every process.
        return njit(nogil=True)(function)


scan = _compiled(_scan)
scan_table = _compiled(_scan_table)
