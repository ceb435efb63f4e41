"""Numbers read by the scanner are bit-identical to `float` followed by a cast to float32.

`PSPTOOL_FLOAT_STRINGS=10000000` sets the number of random decimal strings.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from psptool.formats.readers import kernel
from psptool.formats.readers.scanner import scan
from psptool.formats.readers.text import LARGEST_FLOAT32

COUNT = int(os.environ.get("PSPTOOL_FLOAT_STRINGS", "50000"))
PER_BODY, PER_FILE = 75, 75 * 2000


def file_of(numbers: list[str], rng: random.Random) -> bytes:
    """A file of one frame with the numbers as coordinates and random whitespace."""
    bodies = len(numbers) // PER_BODY
    end = rng.choice(["\n", "\r\n", " \r\n", "\t\n"])
    rest = f" 0 0 0 0 0 0 0 0 {rng.randrange(3)}{end}"
    lines = [f"1{end}{bodies}{end}"]
    for b in range(bodies):
        lines.append(f"{b} 0 0 0 0 0 0 0 0 0{end}25{end}")
        for n in range(b * PER_BODY, (b + 1) * PER_BODY, 3):
            lines.append(
                f"{rng.choice(('', '', ' '))}{rng.choice((' ', '  ', chr(9))).join(numbers[n : n + 3])}{rest}"
            )
    return "".join(lines).encode()


def plain(rng: random.Random) -> str:
    return f"{rng.uniform(-5, 5):.{rng.randint(1, 9)}g}"


def scientific(rng: random.Random) -> str:
    text = f"{rng.uniform(-10, 10):.{rng.randint(0, 20)}e}".replace("e", rng.choice("eE"))
    return text.replace(
        "+00", rng.choice(["+0", "0", "-0", "+00", "-00000", f"-{rng.randint(0, 60)}", "+7", "31"])
    )


def shortest(rng: random.Random) -> str:
    return repr(rng.uniform(-4, 4) * 10.0 ** rng.randint(-50, 30))


def as_float32(rng: random.Random) -> str:
    return repr(float(np.float32(rng.uniform(-4, 4))))


def halfway(rng: random.Random) -> str:
    """Midpoint of two adjacent float32 values, or slightly beyond it: double rounding fails here."""
    low = np.uint32(rng.randrange(0, 0x7F7FFFFF)).view(np.float32)
    middle = (float(low) + float(np.nextafter(low, np.float32(np.inf)))) / 2
    digits = f"{middle:.{rng.choice([17, 25, 60])}e}"
    mantissa, exponent = digits.split("e")
    return f"{mantissa}{rng.choice(['', '0000000001', '1', '00000000000000000000000000000000000001'])}e{exponent}"


def near_halfway(rng: random.Random) -> str:
    """Like `halfway`, with 15 to 17 digits and powers beyond 10**22 and 10**-22: the limits of exact conversion."""
    low = np.float32(rng.uniform(1, 3) * 10.0 ** rng.randint(-11, 38))
    middle = (float(low) + float(np.nextafter(low, np.float32(0)))) / 2
    places = rng.choice([14, 15, 15, 16])
    mantissa, exponent = f"{middle:.{places}e}".split("e")
    return rng.choice([f"{mantissa}e{exponent}", f"{mantissa.replace('.', '')}e{int(exponent) - places}"])


def digits(rng: random.Random) -> str:
    """Random digits, with a decimal point at any position or without one."""
    text = "".join(rng.choices("0123456789", k=rng.randint(1, 25)))
    point = rng.randint(0, len(text))
    text = rng.choice([text, text[:point] + "." + text[point:]])
    return (
        rng.choice(["", "-", "+"])
        + text
        + rng.choice(["", "", "e-5", "E+2", "e0", "e-22", "e22", "e-23", "e-45"])
    )


def limits(rng: random.Random) -> str:
    return rng.choice(LIMITS)


LIMITS = [
    *(
        "0",
        "-0",
        "+0",
        "0.",
        ".0",
        "-.0",
        "-0.0",
        "0e0",
        "0e-999",
        "0e99999999999999999999",
        "-0e5",
        "00000000000",
    ),
    *("1e-45", "7e-46", "7.1e-46", "1.17549435e-38", "3.4028235e38", "-3.40282356e38", "1e-400", "4.9e-324"),
    *(
        "9007199254740991",
        "9007199254740992",
        "9007199254740993",
        "0.9007199254740993",
        "18446744073709551616",
    ),
    *("9007199254740991e22", "1e22", "1e23", "9.999999e-22", ".5", "5.", "+.5", "-5.e1", "1" + "0" * 38),
    *(
        "0." + "0" * 40 + "123",
        "1." + "9" * 400,
        "0" * 400 + "1.5",
        "9.99999999",
        "0.00000000",
        "1.1234567890",
    ),
]
FORMS: tuple[Callable[[random.Random], str], ...] = (
    plain, plain, scientific, shortest, as_float32, halfway, near_halfway, digits, digits, limits,
)  # fmt: skip


def random_numbers(count: int, rng: random.Random) -> Iterator[str]:
    """Decimal strings of every form, with values in the range of float32."""
    while count:
        text = rng.choice(FORMS)(rng)
        if abs(float(text)) <= LARGEST_FLOAT32:
            count -= 1
            yield text


def bits_by_float(numbers: list[str]) -> np.ndarray:
    return np.array([float(number) for number in numbers]).astype(np.float32).view(np.uint32)


def test_every_number_is_bit_identical_to_float_and_a_cast() -> None:
    for seed in range(math.ceil(COUNT / PER_FILE)):
        rng = random.Random(seed)
        size = min(PER_FILE, math.ceil((COUNT - seed * PER_FILE) / PER_BODY) * PER_BODY)
        numbers = list(random_numbers(size, rng))
        found = scan(file_of(numbers, rng), 25)
        assert found.problem == kernel.FINE
        different = np.flatnonzero(found.xyz.reshape(-1).view(np.uint32) != bits_by_float(numbers))
        assert [numbers[n] for n in different] == []


def test_all_forms_are_among_the_random_numbers() -> None:
    """Ensures that the test above does not pass on easy numbers only."""
    numbers = list(random_numbers(20_000, random.Random(0)))
    for wanted in ("e", "E", "+", "-"):
        assert sum(wanted in number for number in numbers) > 200
    assert sum(number.lstrip("+-")[0] == "." for number in numbers) > 50
    assert sum(number[-1] == "." for number in numbers) > 50
    assert max(map(len, numbers)) > 300
    bits = bits_by_float(numbers)
    assert sum(bits == 0) > 20
    assert sum(bits == 0x80000000) > 20


@pytest.mark.parametrize("length", range(1, 12))
def test_short_decimals_with_a_byte_that_is_not_a_digit_are_refused_and_others_exact(length: int) -> None:
    """Parsing of eight digits at once, with each byte value at each position: only digits are accepted."""
    rng = random.Random(length)
    for place in range(length):
        for byte in range(256):
            fraction = [rng.choice(b"0123456789") for _ in range(length)]
            fraction[place] = byte
            text = b"-1." + bytes(fraction)
            numbers = [b"0.5"] * PER_BODY
            numbers[4] = text
            blob = file_of([number.decode("latin-1") for number in numbers], rng).decode().encode("latin-1")
            found = scan(blob, 25)
            if bytes([byte]) in b"0123456789":
                assert found.xyz[0, 1, 1] == np.float32(float(text))
            elif bytes([byte]) not in b" \t\r\n" and not _float_accepts(text):
                assert found.problem == kernel.NUMBER


def _float_accepts(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return b"_" not in text and not text[-1:].isspace()
