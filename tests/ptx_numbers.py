"""Numbers for tests of instructions: operands at the edges, and exact results.

Real numbers are computed as fractions that are rounded once.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


def bits_of(kind: str) -> int:
    return {"pred": 1, "bf16": 16, "tf32": 32, "f16x2": 32, "bf16x2": 32}.get(
        kind, int(re.sub(r"\D", "", kind) or 0)
    )


def register_bits(kind: str) -> int:
    return max(16, bits_of(kind))


# ---- integers

INTEGER = ["u16", "s16", "u32", "s32", "u64", "s64"]


def signed(x: int, bits: int) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> bits - 1 else x


def value(x: int, kind: str) -> int:
    bits = bits_of(kind)
    return signed(x, bits) if kind[0] == "s" else x & (1 << bits) - 1


def integers(bits: int, count: int = 12) -> list[int]:
    edges = [0, 1, 2, 7, (1 << bits) - 1, (1 << bits) - 2, 1 << bits - 1, (1 << bits - 1) - 1]
    random_ = random.Random(bits)
    return edges + [random_.getrandbits(random_.randint(1, bits)) for _ in range(count)]


def pairs(bits: int) -> list[tuple[int, int]]:
    return list(itertools.product(integers(bits), repeat=2))


def truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


# ---- real numbers


@dataclass(frozen=True)
class Format:
    bits: int
    mantissa: int  # bits that are stored
    nan: int

    @property
    def bias(self) -> int:
        return (1 << self.bits - self.mantissa - 2) - 1

    @property
    def infinity(self) -> int:
        return (2 * self.bias + 1) << self.mantissa

    def fraction(self, x: int) -> Fraction | None:
        """None for NaN and infinities."""
        sign = -1 if x >> self.bits - 1 else 1
        exponent = x >> self.mantissa & (2 * self.bias + 1)
        if exponent == 2 * self.bias + 1:
            return None
        low = x & (1 << self.mantissa) - 1
        number = low + (1 << self.mantissa if exponent else 0)
        return sign * number * Fraction(2) ** (max(exponent, 1) - self.bias - self.mantissa)

    def is_nan(self, x: int) -> bool:
        return x & (1 << self.bits - 1) - 1 > self.infinity

    def rounded(self, x: Fraction, mode: str = "rn", negative_zero: bool = False) -> int:
        """The bits of x, rounded once."""
        sign = 1 << self.bits - 1 if x < 0 or (x == 0 and negative_zero) else 0
        if x == 0:
            return sign
        size = abs(x)
        exponent = size.numerator.bit_length() - size.denominator.bit_length()
        exponent -= size < Fraction(2) ** exponent
        step = Fraction(2) ** (max(exponent, 1 - self.bias) - self.mantissa)
        steps, rest = divmod(size / step, 1)
        up = {
            "rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and steps % 2 == 1),
            "rna": rest >= Fraction(1, 2),
            "rz": False,
            "rm": sign != 0 and rest > 0,
            "rp": sign == 0 and rest > 0,
        }[mode]
        steps += up
        # Steps count on from the exponent's, and a carry goes into it.
        bits = int(steps) + (max(exponent, 1 - self.bias) + self.bias - 1 << self.mantissa)
        if bits < self.infinity:
            return sign | bits
        to_infinity = mode in ("rn", "rna") or mode == ("rm" if sign else "rp")
        return sign | (self.infinity if to_infinity else self.infinity - 1)


FORMATS = {
    "f32": Format(32, 23, 0x7FFFFFFF),
    "f64": Format(64, 52, 0x7FF8000000000000),
    "f16": Format(16, 10, 0x7FFF),
    "bf16": Format(16, 7, 0x7FFF),
}
MODES = ["rn", "rz", "rm", "rp"]


def reals(kind: str, count: int = 30) -> list[int]:
    """Finite ones of all sizes: zeros, subnormal, the largest, near one and at random."""
    f, random_ = FORMATS[kind], random.Random(3)
    one = f.bias << f.mantissa
    top = 1 << f.bits - 1
    chosen = [0, 1, (1 << f.mantissa) - 1, 1 << f.mantissa, f.infinity - 1, one, one + 1, one - 1]
    chosen += [random_.randrange(f.infinity) for _ in range(count // 2)]
    chosen += [one + random_.randrange(-3 << f.mantissa, 3 << f.mantissa) for _ in range(count)]
    return [x for bits in chosen for x in (bits, bits | top)]


def flush(x: int, kind: str) -> int:
    f = FORMATS[kind]
    subnormal = 0 < x & (1 << f.bits - 1) - 1 < 1 << f.mantissa
    return x & 1 << f.bits - 1 if subnormal else x


def real_pairs(kind: str, count: int = 6) -> list[tuple[int, int]]:
    """Any two, and many that are close, so that sums cancel and round."""
    few, random_ = reals(kind, count), random.Random(4)
    near = [(x, x ^ random_.getrandbits(FORMATS[kind].mantissa)) for x in reals(kind, 60)]
    return list(itertools.product(few, repeat=2)) + near


def float_bits(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


def float_of(bits: int) -> float:
    return float(np.uint32(bits).view(np.float32))


def ulps(found: int, x: float) -> float:
    """The distance of float32 bits from a real number, in units of its last place."""
    return abs(float_of(found) - x) / float(np.spacing(np.float32(abs(x))))
