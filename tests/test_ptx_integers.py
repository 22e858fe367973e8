"""Integer instructions of PTX, one by one: arithmetic, logic, shifts, fields."""

from __future__ import annotations

import itertools
import operator
import random
import struct
from collections.abc import Callable

import pytest
from ptx_numbers import INTEGER, bits_of, integers, pairs, signed, truncated, value
from ptx_run import assert_equal, evaluate, needs_compiler

pytestmark = needs_compiler


# ---- integers


BINARY: dict[str, Callable[[int, int, int], int]] = {
    "add": lambda a, b, bits: a + b,
    "sub": lambda a, b, bits: a - b,
    "mul.lo": lambda a, b, bits: a * b,
    "mul.hi": lambda a, b, bits: a * b >> bits,
    "div": lambda a, b, bits: truncated(a, b) if b else -1,
    "rem": lambda a, b, bits: a - b * truncated(a, b) if b else a,
    "min": lambda a, b, bits: min(a, b),
    "max": lambda a, b, bits: max(a, b),
}


@pytest.mark.parametrize("kind", INTEGER)
@pytest.mark.parametrize("name", BINARY)
def test_integer_arithmetic(name: str, kind: str) -> None:
    bits = bits_of(kind)
    cases = pairs(bits)
    found = evaluate(f"{name}.{kind} d, a, b;", kind, [kind, kind], cases)
    expected = [
        BINARY[name](value(a, kind), value(b, kind), bits) & (1 << bits) - 1 for a, b in cases
    ]
    assert_equal(found, expected, cases)


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32"])
@pytest.mark.parametrize("name", ["mul", "mad"])
def test_wide_products(name: str, kind: str) -> None:
    bits = bits_of(kind)
    wide = f"{kind[0]}{2 * bits}"
    cases = [(a, b, c) for (a, b), c in zip(pairs(bits), itertools.cycle(integers(2 * bits)))]
    last = ", c" if name == "mad" else ""
    found = evaluate(f"{name}.wide.{kind} d, a, b{last};", wide, [kind, kind, wide], cases)
    expected = [
        value(a, kind) * value(b, kind) + (c if last else 0) & (1 << 2 * bits) - 1
        for a, b, c in cases
    ]
    assert_equal(found, expected, cases)


@pytest.mark.parametrize("kind", INTEGER)
@pytest.mark.parametrize("half", ["lo", "hi"])
def test_multiply_add(half: str, kind: str) -> None:
    bits = bits_of(kind)
    cases = [(a, b, c) for (a, b), c in zip(pairs(bits), itertools.cycle(integers(bits, 5)))]
    found = evaluate(f"mad.{half}.{kind} d, a, b, c;", kind, [kind] * 3, cases)
    shift = bits if half == "hi" else 0
    expected = [
        ((value(a, kind) * value(b, kind) >> shift) + c) & (1 << bits) - 1 for a, b, c in cases
    ]
    assert_equal(found, expected, cases)


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
@pytest.mark.parametrize(("name", "function"), [("abs", abs), ("neg", operator.neg)])
def test_integer_signs(name: str, function: Callable[[int], int], kind: str) -> None:
    bits = bits_of(kind)
    cases = [(a,) for a in integers(bits)]
    found = evaluate(f"{name}.{kind} d, a;", kind, [kind], cases)
    assert_equal(found, [function(signed(a, bits)) & (1 << bits) - 1 for (a,) in cases], cases)


@pytest.mark.parametrize(("name", "function"), [("add", operator.add), ("sub", operator.sub)])
def test_saturated_sums(name: str, function: Callable[[int, int], int]) -> None:
    cases = pairs(32)
    found = evaluate(f"{name}.sat.s32 d, a, b;", "s32", ["s32", "s32"], cases)
    expected = [
        min(max(function(signed(a, 32), signed(b, 32)), -(2**31)), 2**31 - 1) & 0xFFFFFFFF
        for a, b in cases
    ]
    assert_equal(found, expected, cases)


@pytest.mark.parametrize(("name", "function"), [("add", operator.add), ("sub", operator.sub)])
@pytest.mark.parametrize("bits", [32, 64])
def test_carries(name: str, function: Callable[[int, int], int], bits: int) -> None:
    """The upper word of a sum of three."""
    kind, random_ = f"b{bits}", random.Random(1)
    edges = [0, 1, (1 << bits) - 1, 1 << bits - 1]
    cases = list(itertools.product(edges, repeat=4)) + [
        tuple(random_.getrandbits(bits) for _ in range(4)) for _ in range(100)
    ]
    body = (
        f".reg .b{bits} low, middle;\n{name}.cc.u{bits} low, a, b;\n"
        f"{name}c.cc.u{bits} middle, c, e;\n{name}c.u{bits} d, c, e;"
    )
    found = evaluate(body, kind, [kind] * 4, cases)
    base = 1 << bits
    expected = [
        function(a + c * base + c * base**2, b + e * base + e * base**2) >> 2 * bits
        for a, b, c, e in cases
    ]
    assert_equal(found, [x & base - 1 for x in expected], cases)


def test_products_with_carries() -> None:
    """Words of 64 bits multiplied by way of words of 32: the third of four words."""
    body = """
    .reg .b32 a0, a1, b0, b1, r0, r1, r2, r3;
    mov.b64 {a0, a1}, a; mov.b64 {b0, b1}, b;
    mul.lo.u32 r0, a0, b0; mul.hi.u32 r1, a0, b0;
    mad.lo.cc.u32 r1, a0, b1, r1; madc.hi.u32 r2, a0, b1, 0;
    mad.lo.cc.u32 r1, a1, b0, r1; madc.hi.cc.u32 r2, a1, b0, r2; addc.u32 r3, 0, 0;
    mad.lo.cc.u32 r2, a1, b1, r2; madc.hi.u32 r3, a1, b1, r3;
    mov.b64 d, {r2, r3};
    """
    cases = pairs(64)
    found = evaluate(body, "b64", ["b64", "b64"], cases)
    assert_equal(found, [a * b >> 64 for a, b in cases], cases)


# ---- bits


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("and", operator.and_),
        ("or", operator.or_),
        ("xor", operator.xor),
        ("not", lambda a, b: ~a),
        ("cnot", lambda a, b: a == 0),
    ],
)
def test_logic(name: str, function: Callable[[int, int], int], bits: int) -> None:
    cases, mask = pairs(bits), (1 << bits) - 1
    second = "" if name in ("not", "cnot") else ", b"
    found = evaluate(f"{name}.b{bits} d, a{second};", f"b{bits}", [f"b{bits}"] * 2, cases)
    assert_equal(found, [function(a, b) & mask for a, b in cases], cases)


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_logic_of_predicates(name: str) -> None:
    function = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}[name]
    cases = list(itertools.product((0, 1), repeat=2))
    body = f"not.pred a, a;\n{name}.pred d, a, b;"
    found = evaluate(body, "pred", ["pred", "pred"], cases)
    assert_equal(found, [function(1 - a, b) for a, b in cases], cases)


@pytest.mark.parametrize("table", [0x80, 0xFE, 0x96, 0xCA, 0x1B])
def test_three_input_logic(table: int) -> None:
    cases = [(0xF0F0AAAA, 0xCCCCFF00, 0x12345678), (0xF0F0F0F0, 0xCCCCCCCC, 0xAAAAAAAA)]
    expected = [
        sum(
            (table >> ((a >> k & 1) * 4 + (b >> k & 1) * 2 + (c >> k & 1)) & 1) << k
            for k in range(32)
        )
        for a, b, c in cases
    ]
    found = evaluate(f"lop3.b32 d, a, b, c, {table};", "b32", ["b32"] * 3, cases)
    assert_equal(found, expected, cases)


@pytest.mark.parametrize("kind", ["b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64"])
def test_shifts(kind: str) -> None:
    bits = bits_of(kind)
    by = [0, 1, bits - 1, bits, bits + 1, 255, 2**31, 2**32 - 1]
    cases = list(itertools.product(integers(bits), by))
    found = evaluate(f"shr.{kind} d, a, b;", kind, [kind, "u32"], cases)
    mask = (1 << bits) - 1
    assert_equal(found, [value(a, kind) >> min(b, 99) & mask for a, b in cases], cases)
    if kind[0] != "b":
        return
    found = evaluate(f"shl.{kind} d, a, b;", kind, [kind, "u32"], cases)
    assert_equal(found, [a << min(b, 99) & mask for a, b in cases], cases)


@pytest.mark.parametrize("mode", ["wrap", "clamp"])
def test_funnel_shifts(mode: str) -> None:
    cases = list(itertools.product(integers(32, 3), integers(32, 3), [0, 1, 31, 32, 33, 200]))
    by = [c & 31 if mode == "wrap" else min(c, 32) for _, _, c in cases]
    both = [b << 32 | a for a, b, _ in cases]
    found = evaluate(f"shf.l.{mode}.b32 d, a, b, c;", "b32", ["b32"] * 3, cases)
    expected = [x << n >> 32 & 0xFFFFFFFF for x, n in zip(both, by, strict=True)]
    assert_equal(found, expected, cases)
    found = evaluate(f"shf.r.{mode}.b32 d, a, b, c;", "b32", ["b32"] * 3, cases)
    assert_equal(found, [x >> n & 0xFFFFFFFF for x, n in zip(both, by, strict=True)], cases)


POSITIONS = [0, 1, 5, 31, 32, 40, 63, 64, 255, 256]


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_field_extraction(kind: str) -> None:
    bits = bits_of(kind)
    cases = list(itertools.product(integers(bits, 4), POSITIONS, POSITIONS))

    def expected(a: int, position: int, length: int) -> int:
        position, length = position & 255, length & 255
        field_ = value(a, kind) >> position if position < bits else value(a, kind) >> bits
        if kind[0] == "u":
            return field_ & (1 << length) - 1
        return signed(field_, length) & (1 << bits) - 1 if length else 0

    found = evaluate(f"bfe.{kind} d, a, b, c;", kind, [kind, "u32", "u32"], cases)
    assert_equal(found, [expected(*case) for case in cases], cases)


@pytest.mark.parametrize("bits", [32, 64])
def test_field_insertion(bits: int) -> None:
    cases = [
        (a, b, *at)
        for a, b in zip(integers(bits), reversed(integers(bits)), strict=True)
        for at in itertools.product(POSITIONS, repeat=2)
    ]

    def expected(a: int, b: int, position: int, length: int) -> int:
        mask = ((1 << (length & 255)) - 1) << (position & 255) & (1 << bits) - 1
        return b & ~mask | a << (position & 255) & mask

    kinds = [f"b{bits}", f"b{bits}", "u32", "u32"]
    found = evaluate(f"bfi.b{bits} d, a, b, c, e;", f"b{bits}", kinds, cases)
    assert_equal(found, [expected(*case) for case in cases], cases)


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_counts(kind: str) -> None:
    bits = bits_of(kind)
    cases = [(a,) for a in integers(bits, 40)]
    # The highest bit that is no copy of the sign.
    sizes = [(x if (x := value(a, kind)) >= 0 else ~x).bit_length() for (a,) in cases]
    found = evaluate(f"bfind.{kind} d, a;", "u32", [kind], cases)
    assert_equal(found, [(s - 1) & 0xFFFFFFFF for s in sizes], cases)
    found = evaluate(f"bfind.shiftamt.{kind} d, a;", "u32", [kind], cases)
    assert_equal(found, [bits - s if s else 0xFFFFFFFF for s in sizes], cases)
    found = evaluate(f"popc.b{bits} d, a;", "u32", [kind], cases)
    assert_equal(found, [a.bit_count() for (a,) in cases], cases)
    found = evaluate(f"clz.b{bits} d, a;", "u32", [kind], cases)
    assert_equal(found, [bits - a.bit_length() for (a,) in cases], cases)
    found = evaluate(f"brev.b{bits} d, a;", kind, [kind], cases)
    assert_equal(found, [int(f"{a:0{bits}b}"[::-1], 2) for (a,) in cases], cases)


# What the modes of prmt select, for selectors 0 to 3, from byte 3 down (PTX ISA, "prmt").
PERMUTATIONS = {
    "f4e": ["3210", "4321", "5432", "6543"],
    "b4e": ["5670", "6701", "7012", "0123"],
    "rc8": ["0000", "1111", "2222", "3333"],
    "ecl": ["3210", "3211", "3222", "3333"],
    "ecr": ["0000", "1110", "2210", "3210"],
    "rc16": ["1010", "3232", "1010", "3232"],
}


def test_permutations() -> None:
    a, b = 0x83726150, 0xC7B6A594
    data = struct.pack("<II", a, b)
    random_ = random.Random(2)
    cases = [(a, b, random_.getrandbits(16)) for _ in range(200)]

    def byte(selector: int) -> int:
        chosen = data[selector & 7]
        return (255 if chosen & 128 else 0) if selector & 8 else chosen

    expected = [sum(byte(c >> 4 * k & 15) << 8 * k for k in range(4)) for _, _, c in cases]
    assert_equal(evaluate("prmt.b32 d, a, b, c;", "b32", ["b32"] * 3, cases), expected, cases)
    for mode, rows in PERMUTATIONS.items():
        cases = [(a, b, s) for s in range(4)]
        expected = [int.from_bytes(bytes(data[int(k)] for k in row), "big") for row in rows]
        found = evaluate(f"prmt.b32.{mode} d, a, b, c;", "b32", ["b32"] * 3, cases)
        assert_equal(found, expected, cases)
