"""Instructions of PTX that see memory or other lanes, and what is found of them."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ptx_numbers import bits_of, value
from ptx_run import HEADER, assert_equal, evaluate, kernel_text, needs_compiler, run_file, run_text

pytestmark = needs_compiler


# ---- memory


def test_loads_extend_and_stores_truncate() -> None:
    declarations = ".reg .b32 x; .reg .b64 y; .reg .b16 z;"
    body = """
    ld.global.s8 x, [%in+1];    st.global.b32 [%out], x;
    ld.global.u8 x, [%in+1];    st.global.b32 [%out+8], x;
    ld.global.s16 y, [%in];     st.global.b64 [%out+16], y;
    ld.global.nc.L1::no_allocate.L2::128B.b16 z, [%in]; st.global.cs.b16 [%out+24], z;
    ld.global.u64 y, [%in];     st.global.u8 [%out+32], y;
    """
    run = run_text(declarations, body, [0x8081828384859687], 5)
    ones = 2**64 - 1
    assert run.words == [
        0xFFFFFFFFFFFFFF96 & 0xFFFFFFFF | ones << 32 & ones,
        0x96 | ones << 32 & ones,
        0xFFFFFFFFFFFF9687,
        ones << 16 & ones | 0x9687,
        ones << 8 & ones | 0x87,
    ]
    assert not run.findings


def test_vectors_in_memory() -> None:
    declarations = ".reg .b32 a, b, c, e; .reg .b64 x, y;"
    body = """
    ld.global.v4.u32 {a, b, c, e}, [%in];
    st.global.v4.b32 [%out], {e, c, b, a};
    ld.global.v2.b64 {x, y}, [%in];
    st.global.v2.b64 [%out+16], {y, 7};
    """
    run = run_text(declarations, body, [0x0000000200000001, 0x0000000400000003], 4)
    assert run.words == [0x0000000300000004, 0x0000000100000002, 0x0000000400000003, 7]
    assert not run.findings


def test_shared_memory() -> None:
    """By offset and by generic address, static and dynamic; all of a block see it."""
    declarations = """
    .shared .align 8 .b8 exchange[512];
    .reg .b32 x, at, there; .reg .b64 y, wide, generic;
    """
    body = """
    mov.u32 at, exchange;
    mad.lo.u32 at, %t, 8, at;
    cvt.u64.u32 y, %t;
    st.shared.u64 [at], y;
    mov.u64 wide, dynamic;
    cvta.shared.u64 generic, wide;
    mul.wide.u32 wide, %t, 4;
    add.s64 generic, generic, wide;
    st.u32 [generic], %t;
    bar.sync 0;
    xor.b32 there, %t, 63;
    mov.u32 at, exchange;
    mad.lo.u32 at, there, 8, at;
    ld.shared.u64 y, [at];
    mul.lo.u32 at, there, 4;
    ld.shared.u32 x, [dynamic+8];
    cvta.to.shared.u64 wide, generic;
    ld.shared.u32 there, [wide];
    cvt.u64.u32 wide, x;
    mad.lo.u64 y, wide, 1000, y;
    cvt.u64.u32 wide, there;
    mad.lo.u64 y, wide, 1000000, y;
    mul.wide.u32 wide, %t, 8;
    add.s64 wide, %out, wide;
    st.global.u64 [wide], y;
    """
    before = ".extern .shared .align 16 .b8 dynamic[];"
    run = run_text(declarations, body, [0], 64, 64, 256, before=before)
    assert not run.findings
    assert run.words == [(t ^ 63) + 2 * 1000 + t * 1000000 for t in range(64)]


def test_constant_and_local_memory() -> None:
    before = """
    .const .align 4 .f32 halves[3] = {0f3F000000, 0f3E800000, 0f3E000000};
    .global .align 2 .b16 numbers[4] = {-1, 2, 3};
    """
    declarations = """
    .local .align 8 .b8 own[16];
    .reg .b32 x; .reg .b64 at, generic; .reg .b16 h;
    """
    body = """
    ld.const.f32 x, [halves+4];          st.global.b32 [%out], x;
    mov.u64 at, numbers;
    ld.global.s16 x, [at];               st.global.b32 [%out+8], x;
    ld.global.u16 x, [numbers+6];        st.global.b32 [%out+16], x;
    mov.u64 at, own;
    cvta.local.u64 generic, at;
    st.local.v2.u32 [at+8], {5, 6};
    ld.u64 at, [generic+8];              st.global.b64 [%out+24], at;
    """
    run = run_text(declarations, body, [0], 4, before=before)
    assert not run.findings
    assert [w & 0xFFFFFFFF for w in run.words[:3]] == [0x3E800000, 0xFFFFFFFF, 0]
    assert run.words[3] == 6 << 32 | 5


# ---- atomics

ATOMICS: dict[str, tuple[str, Callable[[int, int, int], int]]] = {
    "add": ("u32 u64 s32 s64", lambda old, x, y: old + x),
    "min": ("u32 u64 s32 s64", lambda old, x, y: min(old, x)),
    "max": ("u32 u64 s32 s64", lambda old, x, y: max(old, x)),
    "and": ("b32 b64", lambda old, x, y: old & x),
    "or": ("b32 b64", lambda old, x, y: old | x),
    "xor": ("b32 b64", lambda old, x, y: old ^ x),
    "exch": ("b32 b64", lambda old, x, y: x),
    "inc": ("u32", lambda old, x, y: 0 if old >= x else old + 1),
    "dec": ("u32", lambda old, x, y: x if old == 0 or old > x else old - 1),
    "cas": ("b32 b64", lambda old, x, y: y if old == x else old),
}


@pytest.mark.parametrize("name", ATOMICS)
def test_atomics(name: str) -> None:
    kinds, function = ATOMICS[name]
    for kind in kinds.split():
        bits = bits_of(kind)
        mask = (1 << bits) - 1
        numbers = [0, 1, mask, 1 << bits - 1, 77]
        cases = list(itertools.product(numbers, numbers, (5,)))
        body = f"""
        .shared .align 8 .b64 word[128];
        .reg .b32 at; .reg .b{bits} old;
        mov.u32 at, word;
        mad.lo.u32 at, %t, 8, at;
        st.shared.b{bits} [at], a;
        atom.shared.{name}.{kind} old, [at], b{", c" if name == "cas" else ""};
        ld.shared.b{bits} d, [at];
        setp.ne.b{bits} changed, old, a;
        @changed mov.b{bits} d, 123456;
        """
        found = evaluate(".reg .pred changed;" + body, kind, [kind] * 3, cases)
        expected = [function(*(value(x, kind) for x in case)) & mask for case in cases]
        assert_equal(found, expected, cases)


def test_sums_of_reals() -> None:
    """In global memory float32 sums flush subnormal numbers, in shared memory they do not."""
    declarations = ".shared .align 4 .b32 x; .reg .b32 y, z; .reg .b64 w;"
    body = """
    st.global.b32 [%out], 3;         red.global.add.f32 [%out], 0f00000005;
    st.shared.b32 [x], 3;            atom.shared.add.f32 y, [x], 0f00000005;
    ld.shared.b32 z, [x];            st.global.v2.b32 [%out+8], {y, z};
    st.global.f64 [%out+16], 0d3FF8000000000000;
    red.relaxed.gpu.global.add.f64 [%out+16], 0d3FF8000000000000;
    """
    run = run_text(declarations, body, [0], 3)
    assert not run.findings
    assert run.words[0] & 0xFFFFFFFF == 0
    assert run.words[1:] == [8 << 32 | 3, 0x4008000000000000]


# ---- warps


def lane_output(body: str) -> str:
    return f"""
    {body}
    .reg .b64 to;
    mul.wide.u32 to, %t, 8;
    add.s64 to, %out, to;
    st.global.b64 [to], result;
    """


def shuffled(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The lane that is read and whether it is in range, after the PTX ISA's pseudocode."""
    mask, c = c >> 8 & 31, c & 31
    last = lane & mask | c & ~mask
    first = lane & mask
    j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": first | b & ~mask}[mode]
    valid = j >= last if mode == "up" else j <= last
    return (j if valid else lane), valid


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles(mode: str) -> None:
    for b, segments in itertools.product((0, 1, 5, 16, 31), (0, 0x1000, 0x1800, 0x1C00)):
        c = segments | (0 if mode == "up" else 31)
        body = f"""
        .reg .b32 x; .reg .b64 result; .reg .pred valid; .reg .b32 flag;
        add.u32 x, %t, 100;
        shfl.sync.{mode}.b32 x|valid, x, {b}, {c}, -1;
        selp.b32 flag, 1, 0, valid;
        mov.b64 result, {{x, flag}};
        """
        run = run_text("", lane_output(body), [0], 32, 32)
        assert not run.findings
        expected = [shuffled(mode, lane, b, c) for lane in range(32)]
        assert run.words == [valid << 32 | lane + 100 for lane, valid in expected]


@pytest.mark.parametrize("threshold", [0, 5, 32])
def test_votes(threshold: int) -> None:
    body = f"""
    .reg .b32 votes, n; .reg .b64 result; .reg .pred p, q;
    setp.lt.u32 p, %t, {threshold};
    vote.sync.ballot.b32 votes, p, 0xffffffff;
    mov.b32 n, 0;
    vote.sync.all.pred q, p, -1;   @q add.u32 n, n, 1;
    vote.sync.any.pred q, p, -1;   @q add.u32 n, n, 10;
    vote.sync.uni.pred q, p, -1;   @q add.u32 n, n, 100;
    vote.sync.any.pred q, !p, -1;  @q add.u32 n, n, 1000;
    mov.b64 result, {{votes, n}};
    """
    run = run_text("", lane_output(body), [0], 32, 32)
    assert not run.findings
    every, some = threshold == 32, threshold > 0
    expected = every + 10 * some + 100 * (every or not some) + 1000 * (not every)
    assert run.words == [expected << 32 | (1 << threshold) - 1] * 32


@pytest.mark.parametrize(
    ("name", "kind", "function"),
    [
        ("add", "u32", sum),
        ("min", "s32", min),
        ("max", "u32", max),
        ("and", "b32", lambda x: x[0] & x[1] & x[2]),
        ("or", "b32", lambda x: x[0] | x[1] | x[2]),
        ("xor", "b32", lambda x: x[0] ^ x[1] ^ x[2]),
    ],
)
def test_reductions(name: str, kind: str, function: Callable[[list[int]], int]) -> None:
    """Of lanes 0 to 2; the others go on their own."""
    body = f"""
    .reg .b32 x; .reg .b64 result; .reg .pred few;
    mul.lo.u32 x, %t, 0x9f3779b9;
    xor.b32 x, x, -8;
    setp.lt.u32 few, %t, 3;
    @few redux.sync.{name}.{kind} x, x, 7;
    bar.warp.sync -1;
    cvt.u64.u32 result, x;
    """
    run = run_text("", lane_output(body), [0], 32, 32)
    assert not run.findings
    own = [(t * 0x9F3779B9 ^ 0xFFFFFFF8) & 0xFFFFFFFF for t in range(32)]
    reduced = function([value(x, kind) for x in own[:3]]) & 0xFFFFFFFF
    assert run.words == [reduced] * 3 + own[3:]


# ---- matrices


def spread(function: Callable[[int, int], tuple[int, ...]], registers: int) -> np.ndarray:
    """Indices of a matrix by lane and register."""
    return np.array([[function(lane, r) for r in range(registers)] for lane in range(32)])


FRAGMENTS = {
    # A, B: the two elements of a register (one of tf32); C: row and column. PTX ISA, "mma".
    16: (
        lambda lane, r: (lane // 4 + 8 * (r % 2), lane % 4 * 2 + 8 * (r // 2)),
        lambda lane, r: (lane % 4 * 2 + 8 * r, lane // 4),
    ),
    8: (
        lambda lane, r: (lane // 4 + 8 * (r % 2), lane % 4 + 4 * (r // 2)),
        lambda lane, r: (lane % 4 + 4 * r, lane // 4),
    ),
}


@pytest.mark.parametrize("kind", ["bf16", "f16", "tf32"])
def test_matrix_products(kind: str) -> None:
    random_ = np.random.default_rng(7)
    depth = 8 if kind == "tf32" else 16
    a = random_.integers(-40, 40, (16, depth)).astype(np.float32)
    b = random_.integers(-40, 40, (depth, 8)).astype(np.float32)
    c = random_.integers(-999, 999, (16, 8)).astype(np.float32)

    def words(matrix: np.ndarray, at: np.ndarray, step: tuple[int, int]) -> np.ndarray:
        rows, columns = at[..., 0], at[..., 1]
        if kind == "tf32":
            return matrix[rows, columns].view(np.uint32)
        halves = [matrix[rows + k * step[0], columns + k * step[1]] for k in (0, 1)]
        if kind == "f16":
            low, high = (h.astype(np.float16).view(np.uint16).astype(np.uint32) for h in halves)
        else:
            low, high = (h.view(np.uint32) >> 16 for h in halves)
        return high << 16 | low

    of_a, of_b = FRAGMENTS[depth]
    at_c = spread(lambda lane, r: (lane // 4 + 8 * (r // 2), lane % 4 * 2 + r % 2), 4)
    registers = np.concatenate(
        [
            words(a, spread(of_a, 4), (0, 1)),
            words(b, spread(of_b, 2), (1, 0)),
            c[at_c[..., 0], at_c[..., 1]].view(np.uint32),
        ],
        axis=1,
    )
    shape = "m16n8k8" if depth == 8 else "m16n8k16"
    names = [f"r{k}" for k in range(10)]
    loads = "\n".join(f"ld.global.u32 {name}, [%in+{8 * k}];" for k, name in enumerate(names))
    body = f"""
    .reg .b64 at;
    mul.wide.u32 at, %t, 80;
    add.s64 %in, %in, at;
    {loads}
    mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32
      {{r6, r7, r8, r9}}, {{r0, r1, r2, r3}}, {{r4, r5}}, {{r6, r7, r8, r9}};
    mul.wide.u32 at, %t, 16;
    add.s64 %out, %out, at;
    st.global.v4.f32 [%out], {{r6, r7, r8, r9}};
    """
    inputs = [int(x) for x in registers.reshape(-1)]
    run = run_text(f".reg .b32 {', '.join(names)};", body, inputs, 64, 32)
    assert not run.findings
    found = np.array(run.words, dtype=np.uint64).view(np.float32).reshape(32, 4)
    expected = (c + a @ b)[at_c[..., 0], at_c[..., 1]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("transposed", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrix_loads(count: int, transposed: str) -> None:
    """Of rows 48 bytes apart, whose elements say where they are."""
    names = [f"r{k}" for k in range(count)]
    body = f"""
    .reg .b32 at, x, end; .reg .pred more;
    mov.u32 at, rows;
    mad.lo.u32 at, %t, 48, at;
    mul.lo.u32 x, %t, 0x01000100;
    add.u32 x, x, 0x00010000;
    add.u32 end, at, 16;
  next:
    st.shared.b32 [at], x;
    add.u32 x, x, 0x00020002;
    add.u32 at, at, 4;
    setp.lt.u32 more, at, end;
    @more bra next;
    bar.sync 0;
    sub.u32 at, at, 16;
    ldmatrix.sync.aligned.m8n8.x{count}{transposed}.shared.b16 {{{", ".join(names)}}}, [at];
    """
    stores = "".join(f"st.global.b32 [to+{8 * k}], {name};\n" for k, name in enumerate(names))
    body += f".reg .b64 to;\nmul.wide.u32 to, %t, {8 * count};\nadd.s64 to, %out, to;\n{stores}"
    declarations = f".shared .align 16 .b8 rows[1536]; .reg .b32 {', '.join(names)};"
    run = run_text(declarations, body, [0], 32 * count, 32)
    assert not run.findings

    def element(q: int, row: int, column: int) -> int:
        return (8 * q + row) << 8 | column

    expected = []
    for lane, q in itertools.product(range(32), range(count)):
        at = [(lane // 4, lane % 4 * 2 + e) for e in (0, 1)]
        low, high = (element(q, *(p[::-1] if transposed else p)) for p in at)
        expected.append(high << 16 | low)
    assert [w & 0xFFFFFFFF for w in run.words] == expected


# ---- asynchronous copies

COPY = """
.shared .align 16 .b8 there[64];
.reg .b32 at, n; .reg .b64 x, y;
mov.u32 at, there;
"""


@pytest.mark.parametrize(
    ("size", "read"), [(4, 4), (8, 8), (16, 16), (16, 7), (16, 0), (8, 3), (4, 0)]
)
def test_copies(size: int, read: int) -> None:
    """What is not read becomes zero, what is not copied stays."""
    body = f"""{COPY}
    st.shared.v2.b64 [at+16], {{-1, -1}};
    mov.u32 n, {read};
    cp.async.{"cg" if size == 16 else "ca"}.shared.global.L2::128B [at+16], [%in], {size}, n;
    cp.async.commit_group;
    cp.async.wait_group 0;
    ld.shared.v2.b64 {{x, y}}, [at+16];
    st.global.v2.b64 [%out], {{x, y}};
    """
    words = [0x1122334455667788, 0x99AABBCCDDEEFF00]
    run = run_text("", body, words, 2)
    assert not run.findings
    source = struct.pack("<QQ", *words)
    expected = source[:read] + bytes(size - read) + b"\xff" * (16 - size)
    assert struct.pack("<QQ", *run.words) == expected


def copy_findings(waiting: str) -> list[str]:
    body = f"""{COPY}
    cp.async.ca.shared::cta.global [at], [%in], 8;
    {waiting}
    ld.shared.b64 x, [at];
    st.global.b64 [%out], x;
    """
    run = run_text("", body, [77], 1)
    assert (run.words == [77]) == (not run.findings)
    return [finding.split(":")[0] for finding in run.findings]


def test_copies_are_waited_for() -> None:
    assert copy_findings("cp.async.wait_all;") == []
    commit = "cp.async.commit_group;"
    assert copy_findings(f"{commit} cp.async.wait_group 0;") == []
    assert copy_findings(f"{commit} {commit} cp.async.wait_group 1;") == []
    assert copy_findings("cp.async.wait_group 0;") == ["early read", "lost copy"]
    early = copy_findings(f"{commit} cp.async.wait_group 1;")
    assert early == ["early read", "lost copy"]


# ---- findings name the line

FINDINGS = {
    "global, beyond": ("out of bounds", "", "ld.global.u64 x, [%in+8];"),
    "global, far": ("out of bounds", "", "ld.global.u64 x, [%in+1099511627776];"),
    "shared, beyond": ("out of bounds", ".shared .b32 s;", "st.shared.b32 [s+4], 1;"),
    "shared, before": ("out of bounds", ".shared .b32 s;", "ld.shared.b32 y, [s+-1024];"),
    "shared, far": ("out of bounds", ".shared .b32 s;", "ld.shared.b32 y, [s+1073741824];"),
    "local, beyond": ("out of bounds", ".local .b32 s;", "ld.local.b64 x, [s];"),
    "local, unwritten": ("uninitialised", ".local .b32 s;", "ld.local.b32 y, [s];"),
    "shared, unwritten": ("uninitialised", ".shared .b32 s;", "ld.shared.b32 y, [s];"),
    "unaligned": ("alignment", "", "ld.global.b32 y, [%in+2];"),
    "unaligned vector": ("alignment", "", "ld.global.v2.b16 {h, h}, [%in+2];"),
    "atomic, beyond": ("out of bounds", "", "red.global.add.u32 [%in+64], 1;"),
    "matrix, beyond": (
        "out of bounds",
        "",
        "mov.u32 y, 64; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {y}, [y];",
    ),
    "matrix, unaligned": (
        "alignment",
        ".shared .align 16 .b8 s[64];",
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {y}, [s+4];",
    ),
    "copy from beyond": (
        "out of bounds",
        ".shared .align 16 .b8 s[16];",
        "mov.u32 y, s; add.s64 x, %in, 4096; cp.async.ca.shared.global [y], [x], 8; "
        "cp.async.wait_all;",
    ),
    "copy of too much": (
        "out of bounds",
        ".shared .align 16 .b8 s[16];",
        "mov.u32 y, 9; cp.async.ca.shared.global [s], [%in], 8, y; cp.async.wait_all;",
    ),
    "trap": ("trap", "", "trap;"),
    "race": ("race", ".shared .b32 s;", "st.shared.b32 [s], 1;"),
    "deadlock": ("deadlock", "", "setp.eq.u32 p, %t, 0; @p bar.sync 0;"),
    "divergence": ("divergence", "", "setp.eq.u32 p, %t, 0; @p bar.warp.sync -1;"),
    "mask": ("mask", "", "bar.warp.sync 1;"),
    "shuffle": (
        "shuffle",
        "",
        "mov.b32 y, 1; setp.eq.u32 p, %t, 0; @p shfl.sync.idx.b32 y, y, 1, 31, 1;",
    ),
    "endless": ("endless", "", "again: bra again;"),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_findings(name: str) -> None:
    kind, declarations, body = FINDINGS[name]
    registers = ".reg .b64 x; .reg .b32 y; .reg .b16 h; .reg .pred p;"
    threads = 32 if name.startswith("matrix") else 2
    run = run_text(f"{registers} {declarations}", f"{body}\nbar.warp.sync -1;", [5], 1, threads)
    found = {finding.split(":")[0] for finding in run.findings}
    consequences = {"mask": {"divergence"}, "alignment": {"uninitialised"}}
    assert kind in found
    assert found <= {kind} | consequences.get(kind, set())
    assert any(re.match(rf"{kind}: .*\(unit\.ptx:\d+\)|divergence: ", f) for f in run.findings)


def test_findings_name_the_statement() -> None:
    run = run_text(".reg .b32 y;", "ld.global.b32 y, [%in+2];", [5])
    line = kernel_text(".reg .b32 y;", "").split("ret;")[0].count("\n")
    assert "ld.global.b32 y, [%in+2]: an address off its boundary of 4 bytes" in run.findings[0]
    assert f"(unit.ptx:{line})" in run.findings[0]


@pytest.mark.parametrize("directive", [".maxntid 1, 1, 1", ".reqntid 4"])
def test_launch_bounds(directive: str) -> None:
    run = run_text("", "st.global.b64 [%out], 1;", [0], 1, 2, directives=directive)
    assert run.words == [2**64 - 1]
    assert [finding.split(":")[0] for finding in run.findings] == ["limits"]


def test_counts_of_what_was_executed() -> None:
    """By group; a branch that is not taken does not count."""
    body = """
    .reg .b32 x; .reg .pred p;
    mov.u32 x, 0;
  next:
    add.u32 x, x, 1;
    setp.lt.u32 p, x, 10;
    @p bra next;
    ld.global.u32 x, [%in];
    """
    run = run_text("", body, [0], 1, 3)
    assert run.executed == {
        "parameter": 2 * 3, "move": 2 * 3, "integer": 10 * 3, "compare": 10 * 3,
        "control": 9 * 3 + 3, "global": 3,
    }  # fmt: skip


# ---- names and scopes


def test_scopes() -> None:
    """Registers and labels of inner braces hide outer ones."""
    body = """
    .reg .b64 x;
    mov.b64 x, 1;
    { .reg .b64 x; mov.b64 x, 2; st.global.b64 [%out], x; bra end; trap; end: }
    { .reg .b64 y; mov.b64 y, x; st.global.b64 [%out+8], y; bra.uni end; trap; end: }
    bra over;
    trap;
  over:
    """
    run = run_text("", body, [0], 2)
    assert not run.findings
    assert run.words == [2, 1]


def test_guards() -> None:
    body = """
    .reg .pred p;
    setp.eq.u32 p, %t, 0;
    @p  st.global.b64 [%out], 1;
    @!p st.global.b64 [%out+8], 2;
    """
    assert run_text("", body, [0], 2, 1).words == [1, 2**64 - 1]
    run = run_text("", body, [0], 2, 2)
    assert not run.findings
    assert run.words == [1, 2]


def test_debug_information_and_hints(tmp_path: Path) -> None:
    """What says nothing about the result is passed over."""
    path = tmp_path / "x.ptx"
    path.write_text(
        f"""{HEADER}.file 1 "x.cu"
        .visible .entry other(.param .u64 .ptr .global .align 8 a, .param .u64 .ptr .align 1 b)
        .maxntid 64 .minnctapersm 2
        {{ /* a comment
           of two lines */
        .loc 1 3 5
        .pragma "nounroll";
        .reg .b64 x;
        .loc 1 4 5, function_name $L__info_string0, inlined_at 1 3 5
        ld.param.u64 x, [b];
        st.global.u64 [x], 9; // another
        ret;
        }}
        .section .debug_str {{ info: .b8 0 }}
        """
    )
    run = run_file(path, "other", [0], 1, 1)
    assert run.words == [9]
