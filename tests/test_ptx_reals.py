"""Instructions of PTX on real numbers, one by one; comparisons, conversions, constants."""

from __future__ import annotations

import itertools
import math
import operator
import random
import struct
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from ptx_numbers import (
    FORMATS,
    INTEGER,
    MODES,
    Format,
    bits_of,
    float_bits,
    float_of,
    flush,
    integers,
    real_pairs,
    reals,
    register_bits,
    ulps,
    value,
)
from ptx_run import assert_equal, evaluate, needs_compiler

pytestmark = needs_compiler


# ---- real numbers


def exact_binary(name: str, a: int, b: int, kind: str, mode: str) -> int:
    f = FORMATS[kind]
    x, y = f.fraction(a), f.fraction(b)
    assert x is not None
    assert y is not None
    top = f.bits - 1
    minus_a, minus_b = a >> top, b >> top
    if name == "mul":
        return f.rounded(x * y, mode, negative_zero=minus_a != minus_b)
    if name == "div":
        if y == 0:
            return f.nan if x == 0 else f.infinity | (minus_a ^ minus_b) << top
        return f.rounded(x / y, mode, negative_zero=minus_a != minus_b)
    total = x + y if name == "add" else x - y
    minus_b ^= name == "sub"
    both = minus_a and minus_b
    return f.rounded(total, mode, negative_zero=both or (mode == "rm" and minus_a != minus_b))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_real_arithmetic(name: str, kind: str, mode: str) -> None:
    f = FORMATS[kind]
    cases = [c for c in real_pairs(kind) if name != "div" or f.fraction(c[1])]
    found = evaluate(f"{name}.{mode}.{kind} d, a, b;", kind, [kind, kind], cases)
    assert_equal(found, [exact_binary(name, a, b, kind, mode) for a, b in cases], cases)


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_flushed_and_saturated(name: str) -> None:
    cases = real_pairs("f32")
    found = evaluate(f"{name}.ftz.f32 d, a, b;", "f32", ["f32", "f32"], cases)
    expected = [
        flush(exact_binary(name, flush(a, "f32"), flush(b, "f32"), "f32", "rn"), "f32")
        for a, b in cases
    ]
    assert_equal(found, expected, cases)
    cases += [(FORMATS["f32"].nan, 0)]
    found = evaluate(f"{name}.sat.f32 d, a, b;", "f32", ["f32", "f32"], cases)
    one = 0x3F800000
    plain = [exact_binary(name, a, b, "f32", "rn") for a, b in cases[:-1]]
    assert_equal(found, [*(0 if x >> 31 else min(x, one) for x in plain), 0], cases)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_fused_multiply_add(kind: str, mode: str) -> None:
    """Also where the product cancels against the third but for its last bits."""
    f, random_ = FORMATS[kind], random.Random(5)
    one = f.bias << f.mantissa
    cases = [tuple(random_.choices(reals(kind), k=3)) for _ in range(300)]
    for _ in range(300):
        a, b = (one + random_.getrandbits(f.mantissa) for _ in range(2))
        x, y = f.fraction(a), f.fraction(b)
        assert x is not None
        assert y is not None
        cases.append((a, b, f.rounded(-x * y)))
    expected = []
    for a, b, c in cases:
        x, y, z = (f.fraction(v) for v in (a, b, c))
        assert x is not None
        assert y is not None
        assert z is not None
        minus = (a ^ b) >> f.bits - 1
        minus_c = c >> f.bits - 1
        zero = (minus and minus_c) or (mode == "rm" and minus != minus_c)
        expected.append(f.rounded(x * y + z, mode, negative_zero=bool(zero)))
    found = evaluate(f"fma.{mode}.{kind} d, a, b, c;", kind, [kind] * 3, cases)
    assert_equal(found, expected, cases)


def test_special_values() -> None:
    """Every NaN of float32 is the same one."""
    infinity, nan, other_nan, one = 0x7F800000, 0x7FFFFFFF, 0xFFC12345, 0x3F800000
    minus = 1 << 31
    table = {
        "add": [((infinity, infinity | minus), nan), ((other_nan, one), nan),
                ((infinity, one), infinity)],
        "mul": [((infinity, 0), nan), ((infinity, one | minus), infinity | minus)],
        "div.rn": [((0, 0), nan), ((one, minus), infinity | minus), ((one, infinity), 0)],
        "div.approx": [((one, 0), infinity)],
        "div.full": [((one, one), one)],
    }  # fmt: skip
    for name, rows in table.items():
        cases = [case for case, _ in rows]
        found = evaluate(f"{name}.f32 d, a, b;", "f32", ["f32", "f32"], cases)
        assert_equal(found, [result for _, result in rows], cases)


def real_order(x: int, kind: str) -> tuple[Fraction, int]:
    f = FORMATS[kind]
    number = f.fraction(x)
    sign = x >> f.bits - 1
    if number is None:
        number = Fraction(2) ** 2000 * (-1 if sign else 1)
    return number, -sign


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("name", ["min", "max"])
def test_extrema(name: str, kind: str) -> None:
    """The other operand beside NaN; -0 before +0."""
    f = FORMATS[kind]
    numbers = [*reals(kind, 6), f.infinity, f.infinity | 1 << f.bits - 1]
    cases = list(itertools.product(numbers, repeat=2))
    choose = {"min": min, "max": max}[name]
    expected = [choose(case, key=lambda x: real_order(x, kind)) for case in cases]
    found = evaluate(f"{name}.{kind} d, a, b;", kind, [kind, kind], cases)
    assert_equal(found, expected, cases)
    if kind == "f64":
        return
    nan, two = 0xFFC00001, 0x40000000
    cases = [(nan, two), (two, nan), (nan, nan)]
    found = evaluate(f"{name}.f32 d, a, b;", kind, [kind, kind], cases)
    assert_equal(found, [two, two, f.nan], cases)
    found = evaluate(f"{name}.NaN.f32 d, a, b;", kind, [kind, kind], cases)
    assert_equal(found, [f.nan] * 3, cases)
    cases = [(1, 1 << 31), (0x80000001, 0)]
    found = evaluate(f"{name}.ftz.f32 d, a, b;", kind, [kind, kind], cases)
    assert_equal(found, [0x80000000, 0x80000000] if name == "min" else [0, 0], cases)


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_real_signs(kind: str) -> None:
    top = 1 << bits_of(kind) - 1
    cases = list(itertools.product(reals(kind, 4), repeat=2))
    found = evaluate(f"abs.{kind} d, a;", kind, [kind, kind], cases)
    assert_equal(found, [a & ~top for a, _ in cases], cases)
    found = evaluate(f"neg.{kind} d, a;", kind, [kind, kind], cases)
    assert_equal(found, [a ^ top for a, _ in cases], cases)
    found = evaluate(f"copysign.{kind} d, a, b;", kind, [kind, kind], cases)
    assert_equal(found, [b & ~top | a & top for a, b in cases], cases)


def root(x: Fraction, bits: int) -> Fraction:
    """So exact that its rounding to fewer bits is the root's: the last says that there is more."""
    scale = 4 ** (2 * bits + 200)
    n = x.numerator * scale // x.denominator
    floor = math.isqrt(n)
    exact = floor * floor == n and x.numerator * scale % x.denominator == 0
    return Fraction(2 * floor + (not exact), 2 * math.isqrt(scale))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_roots_and_reciprocals(kind: str, mode: str) -> None:
    f = FORMATS[kind]
    cases = [(a,) for a in reals(kind) if f.fraction(a)]
    expected = [f.rounded(1 / (f.fraction(a) or Fraction(1)), mode) for (a,) in cases]
    assert_equal(evaluate(f"rcp.{mode}.{kind} d, a;", kind, [kind], cases), expected, cases)
    cases = [(a,) for (a,) in cases if not a >> f.bits - 1]
    # Far subnormal numbers need more digits than float64's range has.
    expected = [f.rounded(root(f.fraction(a) or Fraction(1), 600), mode) for (a,) in cases]
    assert_equal(evaluate(f"sqrt.{mode}.{kind} d, a;", kind, [kind], cases), expected, cases)


FUNCTIONS: dict[str, Callable[[float], float]] = {
    "ex2": lambda x: 2.0**x,
    "lg2": math.log2,
    "sin": math.sin,
    "cos": math.cos,
    "tanh": math.tanh,
    "rcp": lambda x: 1 / x,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x),
}


@pytest.mark.parametrize("flushing", ["", ".ftz"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_approximate_functions(name: str, flushing: str) -> None:
    if name == "tanh" and flushing:
        flushing = ""
    cases = [(float_bits(x),) for x in np.linspace(0.01, 30, 200)]
    found = evaluate(f"{name}.approx{flushing}.f32 d, a;", "f32", ["f32"], cases)
    worst = max(ulps(f, FUNCTIONS[name](float_of(a))) for f, (a,) in zip(found, cases, strict=True))
    assert worst <= 0.51


def test_approximate_functions_at_the_edges() -> None:
    infinity, nan, minus = 0x7F800000, 0x7FFFFFFF, 1 << 31
    rows = [
        ("ex2.approx", infinity | minus, 0),
        ("ex2.approx", float_bits(-140), 1 << 9),  # subnormal
        ("ex2.approx.ftz", float_bits(-140), 0),
        ("ex2.approx", float_bits(128), infinity),
        ("lg2.approx", 0, infinity | minus),
        ("lg2.approx.ftz", 1, infinity | minus),
        ("lg2.approx", 1, float_bits(-149)),
        ("lg2.approx", float_bits(-1), nan),
        ("rcp.approx", minus, infinity | minus),
        ("rcp.approx.ftz", 1, infinity),
        ("rsqrt.approx", 0, infinity),
        ("sqrt.approx", float_bits(-1), nan),
    ]
    for name, x, expected in rows:
        assert_equal(evaluate(f"{name}.f32 d, a;", "f32", ["f32"], [(x,)]), [expected], [(x,)])
    cases = [(struct.unpack("<Q", struct.pack("<d", x))[0],) for x in (0.3, -7.5, 1e300)]
    expected = [FORMATS["f64"].rounded(1 / FORMATS["f64"].fraction(a)) for (a,) in cases]
    found = evaluate("rcp.approx.ftz.f64 d, a;", "f64", ["f64"], cases)
    assert_equal(found, expected, cases)


def test_properties() -> None:
    values = {"zero": 0, "subnormal": 5, "normal": 0xBF800000, "infinite": 0x7F800000,
              "notanumber": 0x7FC00000}  # fmt: skip
    holds = {
        "finite": {"zero", "subnormal", "normal"},
        "infinite": {"infinite"},
        "number": {"zero", "subnormal", "normal", "infinite"},
        "notanumber": {"notanumber"},
        "normal": {"normal"},
        "subnormal": {"subnormal"},
    }
    cases = [(x,) for x in values.values()]
    for name, of in holds.items():
        found = evaluate(f"testp.{name}.f32 d, a;", "pred", ["f32"], cases)
        assert_equal(found, [kind in of for kind in values], cases)


# ---- comparisons

ORDERED = {"eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
           "gt": operator.gt, "ge": operator.ge}  # fmt: skip
UNSIGNED = {"lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge}


@pytest.mark.parametrize("kind", [*INTEGER, "b16", "b32", "b64"])
def test_integer_comparisons(kind: str) -> None:
    comparisons = dict(ORDERED)
    if kind[0] == "u":
        comparisons |= UNSIGNED
    cases = list(itertools.product(integers(bits_of(kind), 4), repeat=2))
    for name, function in comparisons.items():
        if kind[0] == "b" and name not in ("eq", "ne"):
            continue
        found = evaluate(f"setp.{name}.{kind} d, a, b;", "pred", [kind, kind], cases)
        assert_equal(found, [function(value(a, kind), value(b, kind)) for a, b in cases], cases)


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_real_comparisons(kind: str) -> None:
    f = FORMATS[kind]
    nan, top = f.infinity + 1, 1 << f.bits - 1
    numbers = [0, top, 1, f.bias << f.mantissa, f.infinity, f.infinity | top, nan]
    cases = list(itertools.product(numbers, repeat=2))
    unordered = [f.is_nan(a) or f.is_nan(b) for a, b in cases]
    orders = [[real_order(x, kind)[0] for x in case] for case in cases]
    for name, function in ORDERED.items():
        holds = [function(*order) for order in orders]
        found = evaluate(f"setp.{name}.{kind} d, a, b;", "pred", [kind, kind], cases)
        assert_equal(found, [h and not u for h, u in zip(holds, unordered, strict=True)], cases)
        found = evaluate(f"setp.{name}u.{kind} d, a, b;", "pred", [kind, kind], cases)
        assert_equal(found, [h or u for h, u in zip(holds, unordered, strict=True)], cases)
    found = evaluate(f"setp.nan.{kind} d, a, b;", "pred", [kind, kind], cases)
    assert_equal(found, unordered, cases)
    found = evaluate(f"setp.num.{kind} d, a, b;", "pred", [kind, kind], cases)
    assert_equal(found, [not u for u in unordered], cases)


def test_comparisons_flush() -> None:
    cases = [(1, 0), (0x80000001, 0x7FFFFF)]
    assert evaluate("setp.eq.ftz.f32 d, a, b;", "pred", ["f32", "f32"], cases) == [1, 1]
    assert evaluate("setp.eq.f32 d, a, b;", "pred", ["f32", "f32"], cases) == [0, 0]


@pytest.mark.parametrize("name", ["and", "or", "xor"])
@pytest.mark.parametrize("sign", ["", "!"])
def test_combined_comparisons(name: str, sign: str) -> None:
    function = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}[name]
    cases = list(itertools.product((3, 5), (4,), (0, 1)))
    for wanted, opposite in (("d|e", False), ("e|d", True)):
        body = f".reg .pred e;\nsetp.lt.{name}.s32 {wanted}, a, b, {sign}c;"
        found = evaluate(body, "pred", ["s32", "s32", "pred"], cases)
        expected = [function((a < b) != opposite, bool(c) != (sign == "!")) for a, b, c in cases]
        assert_equal(found, expected, cases)


@pytest.mark.parametrize("kind", ["b16", "u32", "b64", "f32", "f64"])
def test_selection(kind: str) -> None:
    cases = [(0x1234, 0x4321, p) for p in (0, 1)]
    found = evaluate(f"selp.{kind} d, a, b, c;", kind, [kind, kind, "pred"], cases)
    assert found == [0x4321, 0x1234]


# ---- conversions

ALL_INTEGER = ["u8", "s8", *INTEGER]


@pytest.mark.parametrize("source", ALL_INTEGER)
def test_integer_conversions(source: str) -> None:
    cases = [(a,) for a in integers(bits_of(source))]
    for target in ALL_INTEGER:
        bits = bits_of(target)
        # Registers of 16 bits hold the narrower values, extended by their sign.
        wide = f"{target[0]}{register_bits(target)}"
        low, high = (
            (-(1 << bits - 1), (1 << bits - 1) - 1) if target[0] == "s" else (0, (1 << bits) - 1)
        )
        mask = (1 << bits_of(wide)) - 1
        found = evaluate(f"cvt.{target}.{source} d, a;", wide, [source], cases)
        expected = [value(value(a, source), target) & mask for (a,) in cases]
        assert_equal(found, expected, cases)
        found = evaluate(f"cvt.sat.{target}.{source} d, a;", wide, [source], cases)
        expected = [min(max(value(a, source), low), high) & mask for (a,) in cases]
        assert_equal(found, expected, cases)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", ["f32", "f64"])
def test_integers_to_reals(target: str, mode: str) -> None:
    for source in ALL_INTEGER:
        cases = [(a,) for a in integers(bits_of(source), 30)]
        expected = [FORMATS[target].rounded(Fraction(value(a, source)), mode) for (a,) in cases]
        found = evaluate(f"cvt.{mode}.{target}.{source} d, a;", target, [source], cases)
        assert_equal(found, expected, cases)


def integral(x: Fraction, mode: str) -> int:
    return {"rni": round, "rzi": int, "rmi": math.floor, "rpi": math.ceil}[mode](x)


def around_integers(kind: str) -> list[int]:
    f = FORMATS[kind]
    halves = [Fraction(k, 4) for k in range(-12, 13)]
    edges = [Fraction(s * (2**n + d)) for n in (7, 8, 15, 16, 31, 32, 63, 64) for d in (-1, 0, 1)
             for s in (-1, 1)]  # fmt: skip
    return [*map(f.rounded, [*halves, *edges]), *reals(kind, 10)]


@pytest.mark.parametrize("mode", ["rni", "rzi", "rmi", "rpi"])
@pytest.mark.parametrize("source", ["f32", "f64"])
def test_reals_to_integers(source: str, mode: str) -> None:
    """Out of range: the end of it. NaN: zero, or the highest bit alone if 64 bits are involved."""
    f = FORMATS[source]
    numbers = [(a,) for a in around_integers(source)]
    cases = [*numbers, (f.infinity,), (f.infinity | 1 << f.bits - 1,), (f.infinity + 5,)]
    for target in INTEGER:
        bits = bits_of(target)
        low, high = (
            (-(1 << bits - 1), (1 << bits - 1) - 1) if target[0] == "s" else (0, (1 << bits) - 1)
        )
        exact = [integral(f.fraction(a) or Fraction(0), mode) for (a,) in numbers]
        nan = 1 << bits - 1 if bits == 64 or source == "f64" else 0
        expected = [min(max(x, low), high) for x in exact] + [high, low, nan]
        found = evaluate(f"cvt.{mode}.{target}.{source} d, a;", target, [source], cases)
        assert_equal(found, [x & (1 << bits) - 1 for x in expected], cases)


@pytest.mark.parametrize("mode", ["rni", "rzi", "rmi", "rpi"])
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_reals_to_integral_reals(kind: str, mode: str) -> None:
    f = FORMATS[kind]
    cases = [(a,) for a in around_integers(kind)]
    expected = [
        f.rounded(Fraction(integral(f.fraction(a) or Fraction(0), mode)),
                  negative_zero=bool(a >> f.bits - 1)) for (a,) in cases
    ]  # fmt: skip
    found = evaluate(f"cvt.{mode}.{kind}.{kind} d, a;", kind, [kind], cases)
    assert_equal(found, expected, cases)


@pytest.mark.parametrize("mode", MODES)
def test_reals_to_reals(mode: str) -> None:
    wide, narrow = FORMATS["f64"], FORMATS["f32"]
    random_ = random.Random(6)
    doubles = [narrow.fraction(a) or Fraction(0) for a in reals("f32")]
    cases = [(wide.rounded(x * (1 + Fraction(random_.randrange(9), 2**26))),) for x in doubles]
    cases += [(a,) for a in reals("f64")]
    expected = [
        narrow.rounded(wide.fraction(a) or Fraction(0), mode, negative_zero=bool(a >> 63))
        for (a,) in cases
    ]
    assert_equal(evaluate(f"cvt.{mode}.f32.f64 d, a;", "f32", ["f64"], cases), expected, cases)
    if mode != "rn":
        return
    cases = [(a,) for a in reals("f32")]
    expected = [
        wide.rounded(narrow.fraction(a) or Fraction(0), negative_zero=bool(a >> 31))
        for (a,) in cases
    ]
    assert_equal(evaluate("cvt.f64.f32 d, a;", "f64", ["f32"], cases), expected, cases)


def test_saturated_reals() -> None:
    cases = [(float_bits(x),) for x in (-1, -0.0, 0.25, 1, 7, math.inf)] + [(0x7FC00000,)]
    expected = [float_bits(x) for x in (0, 0, 0.25, 1, 1, 1, 0)]
    assert_equal(evaluate("cvt.sat.f32.f32 d, a;", "f32", ["f32"], cases), expected, cases)


@pytest.mark.parametrize("mode", ["rn", "rz"])
@pytest.mark.parametrize("target", ["f16", "bf16"])
def test_reals_to_halves(target: str, mode: str) -> None:
    """Also exactly between two, at the largest and below the smallest."""
    single, half = FORMATS["f32"], FORMATS[target]
    middles = []
    for h in reals(target, 20):
        up = h + 1 if half.fraction(h + 1) is not None else h
        x, y = half.fraction(h) or Fraction(0), half.fraction(up) or Fraction(0)
        middles += [single.rounded((x + y) / 2 * (1 + Fraction(d, 2**22))) for d in (-1, 0, 1)]
    numbers = [a for a in [*middles, *reals("f32")] if single.fraction(a) is not None]
    expected = [
        half.rounded(single.fraction(a) or Fraction(0), mode, negative_zero=bool(a >> 31))
        for a in numbers
    ]
    cases = [(a,) for a in numbers] + [(0x7F800000,), (0xFFC00000,)]
    found = evaluate(f"cvt.{mode}.{target}.f32 d, a;", target, ["f32"], cases)
    assert_equal(found, [*expected, half.infinity, 0x7FFF], cases)
    both = list(itertools.pairwise(numbers))
    found = evaluate(f"cvt.{mode}.{target}x2.f32 d, a, b;", "b32", ["f32", "f32"], both)
    wanted = [upper << 16 | lower for upper, lower in itertools.pairwise(expected)]
    assert_equal(found, wanted, both)


@pytest.mark.parametrize("source", ["f16", "bf16"])
def test_halves_to_reals(source: str) -> None:
    half = FORMATS[source]
    cases = [(a,) for a in range(0, 1 << 16, 7) if half.fraction(a) is not None]
    expected = [
        FORMATS["f32"].rounded(half.fraction(a) or Fraction(0), negative_zero=bool(a >> 15))
        for (a,) in cases
    ]
    assert_equal(evaluate(f"cvt.f32.{source} d, a;", "f32", [source], cases), expected, cases)
    cases = [(half.infinity,), (half.infinity + 3,)]
    found = evaluate(f"cvt.f32.{source} d, a;", "f32", [source], cases)
    assert_equal(found, [0x7F800000, 0x7FFFFFFF], cases)


@pytest.mark.parametrize("mode", ["rn", "rna", "rz"])
def test_reals_to_tf32(mode: str) -> None:
    tf32 = Format(19, 10, 0)
    cases = [(a,) for a in [*reals("f32", 60), 0x3F801000, 0x3F803000, 0xBF801000]]
    expected = [
        tf32.rounded(FORMATS["f32"].fraction(a) or Fraction(0), mode, bool(a >> 31)) << 13
        for (a,) in cases
    ]
    assert_equal(evaluate(f"cvt.{mode}.tf32.f32 d, a;", "b32", ["f32"], cases), expected, cases)


def test_packing() -> None:
    cases = [(0x1122334455667788, 0xAABBCCDD)]
    body = ".reg .b16 w, x, y, z;\nmov.b64 {w, x, y, z}, a;\nmov.b64 d, {z, w, y, x};"
    assert evaluate(body, "b64", ["b64", "b32"], cases) == [0x5566334477881122]
    body = ".reg .b32 x;\nmov.b64 {_, x}, a;\nmov.b64 d, {b, x};"
    assert evaluate(body, "b64", ["b64", "b32"], cases) == [0x11223344AABBCCDD]
    body = ".reg .b16 x;\nmov.b32 {x, _}, b;\nmov.b32 d, {0, x};"
    assert evaluate(body, "b32", ["b64", "b32"], cases) == [0xCCDD0000]


def test_constants() -> None:
    rows = [
        ("mov.b32 d, 0xFFU;", "b32", 255),
        ("mov.b32 d, 0b101;", "b32", 5),
        ("mov.b32 d, 017;", "b32", 15),
        ("mov.b64 d, -2;", "b64", 2**64 - 2),
        ("mov.f32 d, 0f3F800000;", "f32", 0x3F800000),
        ("mov.f64 d, 0d3FF8000000000000;", "f64", 0x3FF8000000000000),
        ("mov.f64 d, -1.5;", "f64", 0xBFF8000000000000),
        ("mov.u32 d, WARP_SZ;", "b32", 32),
        ("mov.u32 d, %lanemask_lt;", "b32", 0),
        ("mov.u32 d, %nctaid.x;", "b32", 1),
    ]
    for body, kind, expected in rows:
        assert evaluate(body, kind, ["b32"], [(0,)]) == [expected], body
