"""What the interpreter counts: kernels whose counts are known by hand, and one of nvcc's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ptx_run import Counting, needs_compiler, needs_nvcc, programs, ptx_of, run_text
from test_simt import fault_names

pytestmark = needs_compiler

ORDERS = range(4)
Counts = dict[str, Any]


def counted(
    body: str,
    declarations: str = "",
    threads: int = 32,
    words: int = 512,
    counting: Counting | None = None,
    **more: Any,
) -> Counts:
    """Of a kernel that finds nothing to complain about, on arrays of so many words."""
    counting = counting or Counting()
    run = run_text(declarations, body, [0] * words, words, threads, counting=counting, **more)
    assert not run.findings
    return run.counted


def issued(counts: Counts, mnemonic: str) -> tuple[int, int]:
    """Warp instructions and threads."""
    entry = counts["instructions"].get(mnemonic, {"warps": 0, "threads": 0})
    return entry["warps"], entry["threads"]


# ---- instructions

ONE_OF_EACH = {
    "fp32": ["add.f32 f, f, f;", "fma.rn.f32 f, f, f, f;", "max.f32 f, f, f;", "abs.f32 f, f;"],
    "fp64": ["mul.f64 d, d, d;", "rcp.rn.f64 d, d;"],
    "function": ["ex2.approx.ftz.f32 f, f;", "lg2.approx.f32 f, f;", "rcp.approx.ftz.f32 f, f;",
                 "rsqrt.approx.f32 f, f;", "sqrt.rn.f32 f, f;", "tanh.approx.f32 f, f;",
                 "div.full.f32 f, f, f;"],
    "integer": ["mad.lo.s32 r, r, r, r;", "shl.b32 r, r, 3;", "xor.b32 r, r, r;",
                "mul.wide.u32 d, r, 8;", "popc.b32 r, r;", "prmt.b32 r, r, r, 0;"],
    "convert": ["cvt.rn.f32.s32 f, r;", "cvt.rn.bf16.f32 h, f;"],
    "move": ["setp.lt.f32 p, f, f;", "selp.b32 r, r, r, p;", "and.pred p, p, p;",
             "cvta.to.global.u64 d, d;"],
    "local": ["st.local.u32 [own], r;", "ld.local.u32 r, [own];"],
    "warp": ["shfl.sync.bfly.b32 r, r, 1, 31, -1;", "vote.sync.ballot.b32 r, p, -1;",
             "redux.sync.add.u32 r, r, -1;"],
    "barrier": ["bar.sync 0;", "bar.warp.sync -1;", "membar.cta;"],
    "copy_wait": ["cp.async.commit_group;", "cp.async.wait_group 0;"],
    "control": ["bra.uni next;\nnext:"],
    "atomic": ["red.global.add.u32 [%out], 1;"],
}  # fmt: skip


def test_classes() -> None:
    """Of a block of a whole warp and a part of one."""
    declarations = (
        ".reg .f32 f; .reg .f64 d; .reg .b32 r; .reg .pred p; .reg .b16 h; .local .b32 own;"
    )
    body = "mov.u32 r, 0; mov.f32 f, 0f3F800000; mov.f64 d, 0d3FF0000000000000;\n"
    body += "\n".join(line for lines in ONE_OF_EACH.values() for line in lines)
    counts = counted(body, declarations, threads=40)
    # Besides: three moves here, and of kernel_text two loads, a move and ret.
    besides = {"move": 4, "control": 1, "constant": 2}
    expected = {name: len(lines) for name, lines in ONE_OF_EACH.items()}
    for name, more in besides.items():
        expected[name] = expected.get(name, 0) + more
    assert counts["classes"] == {
        name: {"warps": 2 * n, "threads": 40 * n} for name, n in expected.items()
    }
    assert issued(counts, "ex2.approx.ftz.f32") == (2, 40)
    assert counts["flop"] == {"fp32": 40 * 3, "fp64": 40}
    assert counts["local_bytes"] == 40 * 8
    assert (counts["launches"], counts["blocks"]) == (1, 1)
    assert (counts["warps"], counts["threads"]) == (2, 40)


def test_launches_add_up() -> None:
    declarations = ".shared .align 4 .b8 a[100]; .reg .b32 r;"
    body = "mov.u32 r, a; mov.u32 r, dynamic; add.u32 r, r, 1;"
    counts = counted(
        body,
        declarations,
        threads=64,
        dynamic=400,
        counting=Counting(blocks=3, launches=2),
        before=".extern .shared .align 16 .b8 dynamic[];",
    )
    assert (counts["launches"], counts["blocks"]) == (2, 6)
    assert (counts["warps"], counts["threads"]) == (12, 384)
    assert (counts["static_shared_bytes"], counts["dynamic_shared_bytes"]) == (100, 400)
    assert issued(counts, "add.u32") == (12, 384)


def test_launches_that_are_refused_do_not_count() -> None:
    run = run_text("", "", [0], 1, threads=2048, counting=Counting())
    assert run.findings
    assert run.counted["launches"] == run.counted["threads"] == 0
    assert run.counted["classes"] == {}


def test_matrix_products_count_their_flop() -> None:
    names = ", ".join(f"r{k}" for k in range(4))
    declarations = f".reg .b32 {names};"
    zeros = "".join(f"mov.u32 r{k}, 0;" for k in range(4))
    four, two = f"{{{names}}}", "{r0, r1}"
    kinds = {"m16n8k16": ("bf16", "f16"), "m16n8k8": ("tf32",)}
    body = zeros + "\n".join(
        f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {four}, {four}, {two}, {four};"
        for shape, of_shape in kinds.items()
        for kind in of_shape
    )
    counts = counted(body, declarations, threads=64)
    assert counts["classes"]["matrix"] == {"warps": 6, "threads": 192}
    assert counts["flop"] == {
        "matrix_bf16": 2 * 4096,
        "matrix_f16": 2 * 4096,
        "matrix_tf32": 2 * 2048,
    }
    assert [line["warps"] for line in counts["lines"]] == [2, 2, 2]


# ---- who executes together


@pytest.mark.parametrize("order", ORDERS)
def test_branches_that_diverge(order: int) -> None:
    """Each side is a warp instruction, what follows is one again."""
    declarations = ".reg .b32 r; .reg .pred p;"
    body = """
    and.b32 r, %t, 3;
    setp.eq.u32 p, r, 0;
    @p bra fourth;
    popc.b32 r, r;
    bra.uni after;
  fourth:
    clz.b32 r, r;
  after:
    brev.b32 r, r;
    setp.lt.u32 p, %t, 32;
    @p bra first_warp;
    not.b32 r, r;
  first_warp:
    neg.s32 r, r;
    """
    counts = counted(body, declarations, threads=64, counting=Counting(order=order))
    assert issued(counts, "popc.b32") == (2, 48)
    assert issued(counts, "clz.b32") == (2, 16)
    assert issued(counts, "brev.b32") == (2, 64)
    assert issued(counts, "not.b32") == (1, 32)
    assert issued(counts, "neg.s32") == (2, 64)
    # A branch is issued for those who do not take it, too.
    assert issued(counts, "bra") == (4, 16 + 32)


@pytest.mark.parametrize("order", ORDERS)
def test_predicates(order: int) -> None:
    """What no lane's predicate lets execute is issued, but asks memory for nothing."""
    declarations = ".reg .b32 r; .reg .pred some, none;"
    body = """
    setp.lt.u32 some, %t, 5;
    setp.gt.u32 none, %t, 99;
    @some ld.global.u32 r, [%in];
    @none ld.global.u16 r, [%in];
    @!some popc.b32 r, %t;
    """
    counts = counted(body, declarations, counting=Counting(order=order))
    assert issued(counts, "ld.global.u32") == (1, 5)
    assert issued(counts, "ld.global.u16") == (1, 0)
    assert issued(counts, "popc.b32") == (1, 27)
    assert counts["global"]["load"] == traffic(1, 1, 1, 4, 20)
    assert len(counts["lines"]) == 1


@pytest.mark.parametrize("order", ORDERS)
def test_loops(order: int) -> None:
    """A warp is in a loop for as long as any of its lanes."""
    declarations = ".reg .b32 left, r; .reg .pred more;"
    body = """
    and.b32 left, %t, 3;
  again:
    popc.b32 r, %t;
    ld.global.u32 r, [%in];
    setp.ne.u32 more, left, 0;
    sub.u32 left, left, 1;
    @more bra again;
    clz.b32 r, %t;
    """
    counts = counted(body, declarations, threads=33, counting=Counting(order=order))
    assert issued(counts, "popc.b32") == (4 + 1, 8 * (1 + 2 + 3 + 4) + 1)
    assert issued(counts, "clz.b32") == (2, 33)
    assert counts["global"]["load"]["requests"] == 5


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("barrier", ["", "bar.sync 0;"])
def test_loops_within_loops(order: int, barrier: str) -> None:
    """Lanes meet again at the end of the inner one: what they do later is another instruction."""
    declarations = ".reg .b32 outer, inner, r; .reg .pred more;"
    body = f"""
    mov.u32 outer, 0;
  outside:
    add.u32 inner, %t, outer;
    and.b32 inner, inner, 1;
  inside:
    popc.b32 r, %t;
    ld.global.u32 r, [%in];
    setp.ne.u32 more, inner, 0;
    sub.u32 inner, inner, 1;
    @more bra inside;
    {barrier}
    clz.b32 r, %t;
    add.u32 outer, outer, 1;
    setp.lt.u32 more, outer, 3;
    @more bra outside;
    """
    counts = counted(body, declarations, threads=64, counting=Counting(order=order))
    # The odd lanes take two turns, one and two, the even ones one, two and one.
    assert issued(counts, "popc.b32") == (2 * 6, 32 * 5 + 32 * 4)
    assert counts["global"]["load"]["requests"] == 2 * 6
    assert issued(counts, "clz.b32") == (2 * 3, 64 * 3)


@pytest.mark.parametrize("order", ORDERS)
def test_loops_with_two_entrances(order: int) -> None:
    """The n-th time of one lane is taken for that of the others."""
    declarations = ".reg .b32 left, r; .reg .pred p;"
    body = """
    mov.u32 left, 3;
    setp.lt.u32 p, %t, 8;
    @p bra second;
  first:
    popc.b32 r, %t;
  second:
    clz.b32 r, %t;
    ld.global.u32 r, [%in];
    sub.u32 left, left, 1;
    setp.ne.u32 p, left, 0;
    @p bra first;
    brev.b32 r, %t;
    """
    counts = counted(body, declarations, counting=Counting(order=order))
    assert issued(counts, "popc.b32") == (3, 3 * 32 - 8)
    assert issued(counts, "clz.b32") == (3, 96)
    assert counts["global"]["load"]["requests"] == 3
    assert issued(counts, "brev.b32") == (1, 32)


@pytest.mark.parametrize("order", ORDERS)
def test_lanes_that_end_early(order: int) -> None:
    declarations = ".reg .b32 r; .reg .pred p;"
    body = """
    setp.ge.u32 p, %t, 40;
    @p ret;
    popc.b32 r, %t;
    ld.global.u32 r, [%in];
    """
    counting = Counting(blocks=2, order=order)
    counts = counted(body, declarations, threads=64, counting=counting)
    assert issued(counts, "popc.b32") == (4, 80)
    assert counts["global"]["load"]["requests"] == 4


# ---- global memory


def traffic(requests: int, sectors: int, least: int, size: int, lanes: int) -> Counts:
    return {
        "requests": requests,
        "sectors": sectors,
        "least_sectors": least,
        "bytes": size,
        "lane_bytes": lanes,
    }


REGISTERS = ".reg .b32 r, s, u, v; .reg .b64 at, d, e, f, g;"
VECTORS = {
    1: "u8 {}r", 2: "u16 {}r", 4: "u32 {}r", 8: "v2.b32 {}{{r, s}}", 16: "v4.b32 {}{{r, s, u, v}}",
    32: "v4.b64 {}{{d, e, f, g}}",
}  # fmt: skip


def load(space: str, size: int, address: str) -> str:
    kind, rest = VECTORS[size].split(" ", 1)
    return f"ld.{space}.{kind} {rest.format('')}, [{address}];"


def store(space: str, size: int, address: str) -> str:
    kind, rest = VECTORS[size].split(" ", 1)
    return f"st.{space}.{kind} [{address}], {rest.format('')};"


# Bytes of a lane, from one lane to the next, before the first -> sectors, at the least, bytes.
PATTERNS = {
    "coalesced": (4, 4, 0, 4, 4, 128),
    "every second": (4, 8, 0, 8, 4, 128),
    "every eighth": (4, 32, 0, 32, 4, 128),
    "rows": (4, 128, 0, 32, 4, 128),
    "off the boundary": (4, 4, 4, 5, 4, 128),
    "off by a sector": (4, 4, 32, 4, 4, 128),
    "broadcast": (4, 0, 0, 1, 1, 4),
    "halves": (2, 2, 0, 2, 2, 64),
    "bytes": (1, 1, 31, 2, 1, 32),
    "two words": (8, 8, 0, 8, 8, 256),
    "four words": (16, 16, 0, 16, 16, 512),
    "every second of four words": (16, 32, 0, 32, 16, 512),
    "a sector each": (32, 32, 0, 32, 32, 1024),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_sectors(name: str) -> None:
    size, stride, offset, sectors, least, touched = PATTERNS[name]
    body = f"""
    mul.wide.u32 at, %t, {stride};
    add.s64 at, at, %in;
    mov.b64 d, 0; mov.b64 e, 0; mov.b64 f, 0; mov.b64 g, 0;
    {load("global", size, f"at+{offset}")}
    """
    counts = counted(body, REGISTERS, words=1024)
    assert counts["global"] == {"load": traffic(1, sectors, least, touched, 32 * size)}
    assert counts["distinct_sectors_read"] == sectors
    assert counts["classes"]["global_load"] == {"warps": 1, "threads": 32}

    if stride == 0:
        return  # all write the same
    back = body.replace("%in", "%out").replace(
        load("global", size, f"at+{offset}"),
        "mov.u32 r, 0; mov.u32 s, 0; mov.u32 u, 0; mov.u32 v, 0;"
        + store("global", size, f"at+{offset}"),
    )
    if size == 1:
        return  # neighbours that write a byte each are no rule of this project
    counts = counted(back, REGISTERS, words=1024)
    assert counts["global"] == {"store": traffic(1, sectors, least, touched, 32 * size)}
    assert (counts["distinct_sectors_read"], counts["distinct_sectors_written"]) == (0, sectors)


def test_lanes_in_any_order_and_a_part_of_a_warp() -> None:
    body = """
    xor.b32 r, %t, 7;
    mul.wide.u32 at, r, 4;
    add.s64 at, at, %in;
    ld.global.u32 r, [at];
    """
    assert counted(body, REGISTERS)["global"]["load"] == traffic(1, 4, 4, 128, 128)
    partly = counted(body, REGISTERS, threads=24)
    assert partly["global"]["load"] == traffic(1, 3, 3, 96, 96)


def test_sectors_that_are_read_again() -> None:
    """By another warp, block or instruction; but another launch finds nothing."""
    body = """
    and.b32 r, %t, 31;
    mul.wide.u32 at, r, 4;
    add.s64 at, at, %in;
    ld.global.u32 r, [at];
    ld.global.u32 r, [at];
    """
    counts = counted(body, REGISTERS, threads=64, counting=Counting(blocks=3, launches=2))
    assert counts["global"]["load"] == traffic(24, 96, 96, 24 * 128, 24 * 128)
    assert counts["distinct_sectors_read"] == 2 * 4


def test_atomics() -> None:
    """The updates of one word follow each other in shared memory."""
    declarations = REGISTERS + ".shared .align 4 .b32 sums[32];"
    body = """
    mul.lo.u32 r, %t, 4;
    mov.u32 s, sums;
    add.u32 r, r, s;
    st.shared.u32 [r], 0;
    bar.sync 0;
    atom.shared.add.u32 u, [sums], 1;
    red.shared.add.u32 [r], 1;
    red.global.add.u32 [%out], 1;
    """
    counts = counted(body, declarations)
    assert counts["shared"]["atomic"] == wavefronts(2, 33, 2, 256)
    assert counts["global"]["atomic"] == traffic(1, 1, 1, 4, 128)
    assert counts["distinct_sectors_written"] == 1


# ---- shared memory


def wavefronts(requests: int, needed: int, least: int, lanes: int) -> Counts:
    return {
        "requests": requests,
        "wavefronts": needed,
        "least_wavefronts": least,
        "conflicts": needed - least,
        "lane_bytes": lanes,
    }


# Bytes of a lane, from one lane to the next -> wavefronts, at the least.
BANKS = {
    "words": (4, 4, 1, 1),
    "broadcast": (4, 0, 1, 1),
    "two ways": (4, 8, 2, 1),
    "eight ways": (4, 32, 8, 1),
    "columns": (4, 128, 32, 1),
    "padded columns": (4, 132, 1, 1),
    "halves": (2, 2, 1, 1),
    "bytes in columns": (1, 128, 32, 1),
    "pairs": (8, 8, 2, 2),
    "pairs, broadcast": (8, 0, 2, 2),
    "pairs, two ways": (8, 16, 4, 2),
    "pairs, eight ways": (8, 64, 16, 2),
    "pairs in columns": (8, 128, 32, 2),
    "padded columns of pairs": (8, 136, 2, 2),
    "quadruples": (16, 16, 4, 4),
    "quadruples, two ways": (16, 32, 8, 4),
    "quadruples, four ways": (16, 64, 16, 4),
    "quadruples in columns": (16, 128, 32, 4),
    "padded columns of quadruples": (16, 144, 4, 4),
}


@pytest.mark.parametrize("name", BANKS)
def test_bank_conflicts(name: str) -> None:
    size, stride, needed, least = BANKS[name]
    declarations = REGISTERS + ".shared .align 16 .b8 there[4800];"
    body = f"""
    mov.u32 r, 0; mov.u32 s, 0; mov.u32 u, 0; mov.u32 v, 0;
    .reg .b32 own;
    mov.u32 own, there;
    mad.lo.u32 own, %t, {stride}, own;
    {store("shared", size, "own")}
    {load("shared", size, "own")}
    """
    run = run_text(declarations, body, threads=32, counting=Counting())
    assert {finding.split(":")[0] for finding in run.findings} == (
        {"race"} if not stride else set()
    )
    each = wavefronts(1, needed, least, 32 * size)
    assert run.counted["shared"] == {"load": each, "store": each}
    assert run.counted["global"] == {}


def test_banks_of_a_few_lanes() -> None:
    """Only where lanes ask for something is a wavefront needed; of 128 bytes apart, for each."""
    declarations = REGISTERS + ".shared .align 16 .b8 there[4096]; .reg .pred p; .reg .b32 own;"
    body = """
    mov.u32 own, there;
    mad.lo.u32 own, %t, 16, own;
    mov.u32 r, 0; mov.u32 s, 0; mov.u32 u, 0; mov.u32 v, 0;
    setp.lt.u32 p, %t, 8;
    @p st.shared.v4.b32 [own], {r, s, u, v};
    and.b32 r, %t, 7;
    setp.eq.u32 p, r, 0;
    @p st.shared.v4.b32 [own], {r, s, u, v};
    @p st.shared.v2.b32 [own], {r, s};
    """
    lines = counted(body, declarations)["lines"]
    expected = [wavefronts(1, 1, 1, 128), wavefronts(1, 4, 4, 64), wavefronts(1, 4, 2, 32)]
    assert [line["shared"] for line in lines] == expected
    assert [line["threads"] for line in lines] == [8, 4, 4]


MATRICES = {
    "rows side by side": ("mul.lo.u32 own, %t, 16;", 1),
    "rows of 64 bytes": ("mul.lo.u32 own, %t, 64;", 4),
    "rows of 64 bytes, padded": ("mul.lo.u32 own, %t, 80;", 1),
    "rows of 128 bytes": ("mul.lo.u32 own, %t, 128;", 8),
    "rows of 128 bytes, padded": ("mul.lo.u32 own, %t, 144;", 1),
    "rows of 128 bytes, swizzled": (
        "and.b32 r, %t, 7; mul.lo.u32 r, r, 16; mad.lo.u32 own, %t, 128, r;",
        1,
    ),
    "all the same row": ("mov.u32 own, 0;", 1),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrix_loads(name: str, count: int) -> None:
    address, ways = MATRICES[name]
    declarations = REGISTERS + ".shared .align 16 .b8 there[4800]; .reg .b32 own;"
    registers = ", ".join("rsuv"[:count])
    body = f"""
    {address}
    mov.u32 s, there;
    add.u32 own, own, s;
    ldmatrix.sync.aligned.m8n8.x{count}.shared.b16 {{{registers}}}, [own];
    """
    run = run_text(declarations, body, threads=32, counting=Counting())
    assert {finding.split(":")[0] for finding in run.findings} == {"uninitialised"}
    assert run.counted["shared"] == {
        "ldmatrix": wavefronts(1, ways * count, count, 128 * count),
    }
    assert run.counted["classes"]["ldmatrix"] == {"warps": 1, "threads": 32}


# Bytes of a copy, from one to the next in shared memory -> wavefronts, at the least, sectors.
COPIES = {
    "words": (4, 4, 1, 1, 4),
    "words in columns": (4, 128, 32, 1, 4),
    "pairs": (8, 8, 2, 2, 8),
    "quadruples": (16, 16, 4, 4, 16),
    "quadruples in columns": (16, 128, 32, 4, 16),
    "padded columns of quadruples": (16, 144, 4, 4, 16),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("partly", [False, True])
def test_copies(name: str, partly: bool) -> None:
    """Where nothing is read (the upper half of the lanes) zeros are written all the same."""
    size, stride, needed, least, sectors = COPIES[name]
    declarations = REGISTERS + ".shared .align 16 .b8 there[4800]; .reg .pred p; .reg .b32 own;"
    body = f"""
    mov.u32 own, there;
    mad.lo.u32 own, %t, {stride}, own;
    mul.wide.u32 at, %t, {size};
    add.s64 at, at, %in;
    setp.lt.u32 p, %t, {16 if partly else 32};
    selp.b32 r, {size}, 0, p;
    cp.async.{"cg" if size == 16 else "ca"}.shared.global [own], [at], {size}, r;
    cp.async.wait_all;
    """
    counts = counted(body, declarations)
    part = 2 if partly else 1
    size_read = 32 * size // part
    assert counts["shared"] == {"copy": wavefronts(1, needed, least, 32 * size)}
    assert counts["global"] == {
        "copy": traffic(1, sectors // part, sectors // part, size_read, size_read)
    }
    assert counts["distinct_sectors_read"] == sectors // part
    assert counts["classes"]["copy"] == {"warps": 1, "threads": 32}
    assert counts["classes"]["copy_wait"] == {"warps": 1, "threads": 32}


def test_generic_addresses_count_where_they_point() -> None:
    declarations = REGISTERS + ".shared .align 16 .b8 there[128]; .reg .pred p;"
    declarations += ".local .align 4 .b32 own;"
    body = """
    mov.u64 d, there;
    cvta.shared.u64 d, d;
    mul.wide.u32 at, %t, 4;
    add.s64 d, d, at;
    st.u32 [d], %t;
    add.s64 e, %in, at;
    setp.lt.u32 p, %t, 8;
    selp.b64 d, d, e, p;
    ld.u32 r, [d];
    mov.u64 d, own;
    cvta.local.u64 d, d;
    st.u32 [d], r;
    """
    counts = counted(body, declarations)
    assert counts["classes"]["generic_store"] == {"warps": 2, "threads": 64}
    assert counts["shared"] == {"store": wavefronts(1, 1, 1, 128), "load": wavefronts(1, 1, 1, 32)}
    assert counts["global"] == {"load": traffic(1, 3, 3, 96, 96)}
    assert counts["local_bytes"] == 128


# ---- lines


def test_lines_name_their_source() -> None:
    """Inlined functions, too, and where the kernel calls them, however deep."""
    before = '.file 1 "/some/where/kernel.cuh"\n.file 2 "block.cuh", 123, 456\n'
    body = """
    .loc 1 10 3
    ld.global.u32 r, [%in];
    .loc 2 5 1, function_name $info, inlined_at 1 20 7
    ld.global.u16 r, [%in];
    .loc 2 90 1, function_name $info+8, inlined_at 2 5 1
    ld.global.u8 r, [%in];
    .loc 1 11 3
    ld.global.u64 d, [%in];
    """
    lines = counted(body, REGISTERS, before=before)["lines"]
    assert [(line["source"], line["caller"]) for line in lines] == [
        ("kernel.cuh:10", ""),
        ("block.cuh:5", "kernel.cuh:20"),
        ("block.cuh:90", "kernel.cuh:20"),
        ("kernel.cuh:11", ""),
    ]
    assert lines[0]["text"] == "ld.global.u32 r, [%in]"
    assert [line["class"] for line in lines] == ["global_load"] * 4
    numbers = [line["line"] for line in lines]
    assert numbers == [numbers[0] + 2 * k for k in range(4)]


def test_lines_without_a_source() -> None:
    (line,) = counted("ld.global.u32 r, [%in];", REGISTERS)["lines"]
    assert (line["source"], line["caller"], line["warps"]) == ("", "", 1)


# ---- nvcc's


def similarity(path: Path, m: int, n: int, d: int, seed: int = 1, order: int = 0) -> Counts:
    case = f"similarity {fault_names().index('kNone')} {seed} {order} {m} {n} {d}"
    done = subprocess.run(
        [programs()["ptx_driver"], "count", path, *case.split()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert "error: 0" in lines
    (counts,) = json.loads(lines[-1].removeprefix("counted: ")).values()
    return dict(counts)


@needs_nvcc
@pytest.mark.parametrize("architecture", [80, 120])
def test_similarity(architecture: int) -> None:
    """A tile of 64 x 64, four steps of 32: by the numbers above the kernel in planted.cuh."""
    counts = similarity(ptx_of("planted", architecture, "-lineinfo"), 64, 64, 128)
    assert (counts["blocks"], counts["warps"], counts["threads"]) == (1, 4, 128)
    assert counts["dynamic_shared_bytes"] == 2 * 2 * 64 * 80
    assert counts["flop"]["matrix_bf16"] == 2 * 64 * 64 * 128
    steps, warps, products = 4, 4, 2 * 8  # products of a step and warp
    assert counts["classes"]["matrix"]["warps"] == steps * warps * products
    loads = steps * warps * 2
    assert counts["shared"]["ldmatrix"] == wavefronts(loads, 4 * loads, 4 * loads, 512 * loads)
    loads = steps * warps * products * 2
    assert counts["shared"]["load"] == wavefronts(loads, loads, loads, 128 * loads)
    # Eight lanes copy two rows, whose last and first 16 bytes are 16 bytes apart modulo 128.
    copies = steps * 2 * 64 * 4 // 32
    assert counts["shared"]["copy"] == wavefronts(copies, 8 * copies, 4 * copies, 512 * copies)
    assert counts["global"]["copy"] == traffic(
        copies, 16 * copies, 16 * copies, *[512 * copies] * 2
    )
    assert counts["distinct_sectors_read"] == 2 * 64 * 128 * 2 // 32
    # Pairs of columns are in lanes side by side, but stored one by one: half of each sector.
    stores = 64 * 64 // 32
    assert counts["global"]["store"] == traffic(stores, 8 * stores, 4 * stores, *[128 * stores] * 2)
    assert counts["distinct_sectors_written"] == 64 * 64 * 4 // 32


@needs_nvcc
def test_similarity_counts_the_same_by_any_schedule() -> None:
    path = ptx_of("planted", 80, "-lineinfo")
    counts = similarity(path, 100, 90, 96)
    assert counts["flop"]["matrix_bf16"] == 2 * 128 * 128 * 96
    assert counts["global"]["store"]["bytes"] == 100 * 90 * 4
    for seed, order in ((2, 0), (1, 1), (1, 2), (1, 3)):
        assert similarity(path, 100, 90, 96, seed, order) == counts


@needs_nvcc
def test_lines_of_similarity() -> None:
    """The products are wrapped: what calls is the kernel's line."""
    lines = similarity(ptx_of("planted", 80, "-lineinfo"), 64, 64, 128)["lines"]
    products = [line for line in lines if line["class"] == "matrix"]
    assert {line["source"].split(":")[0] for line in products} == {"nvcc.h"}
    callers = {line["caller"] for line in products}
    assert len(callers) == 1
    (name, number) = callers.pop().split(":")
    text = (Path(__file__).parent / "simt" / name).read_text().splitlines()
    assert "platform::mma_bf16(c[j], a, b);" in text[int(number) - 1]
    assert sum(line["warps"] for line in products) == 256
