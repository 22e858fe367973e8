"""Mutants of the kernels' PTX: one instruction each is deleted or corrupted.

Those that nobody could notice are EQUIVALENT.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import cuda_static
from test_sentryward import text_of

KINDS = ("barrier", "wait", "commit", "shuffle", "matrix", "bound")
MUST_DIE = KINDS[:-1]

_ENTROPY = "never executed: where entropies are asked for, another kernel forms the plan"
_SCRATCH = "another barrier comes before the scratch memory is written again, if ever"
_SHIFT = (
    "each lane's sums, and those of the lanes that share its columns, have a shift of their own"
)
_WRITTEN = "the barriers in the write before it are behind the same additions"
_AFTER_LOSSES = "the barrier before the losses' sums is behind the last tile, too"
_EIGHT = "a maximum over the eight warps, in lanes of which the others have the lowest number"
# Kernels, kind, which of a kernel's, and why nobody could notice.
EQUIVALENT: tuple[tuple[str, str, Sequence[int], str], ...] = (
    ("sinkhorn_block_kernel", "shuffle", range(30, 35), _ENTROPY),
    ("sinkhorn_block_kernel<.*, 256>", "barrier", (7, 8), _ENTROPY),
    ("sinkhorn_block_kernel<.*, 256>", "barrier", (10,), _SCRATCH),
    ("sinkhorn_plan_kernel<.*, 256>", "barrier", (2, 4), _SCRATCH),
    ("sinkhorn_row_kernel", "barrier", (4, 6), _SCRATCH),
    ("swapped_prediction_bwd_kernel<.*, 256>", "barrier", (2,), _SCRATCH),
    ("swapped_prediction_fwd_kernel<.*, 256>", "barrier", (2, 8), _SCRATCH),
    ("soft_cross_entropy_fwd_kernel<.*, 256, false", "shuffle", (25, 26, 30, 31), _EIGHT),
    ("soft_cross_entropy_fwd_kernel<.*, 256, true", "shuffle", (20, 21), _EIGHT),
    ("supcon_negatives_kernel", "barrier", (2,), "the barrier behind the walk is right before it"),
    ("supcon_positives_kernel", "barrier", (3,), _WRITTEN),
    ("linear_cross_entropy_fwd_kernel", "barrier", (3, 4), _WRITTEN),
    ("info_nce_fwd_kernel<.*, true, false>", "shuffle", (3, 4), _SHIFT),
    ("info_nce_fwd_kernel<.*, true, true>", "shuffle", (17, 18), _SHIFT),
    ("siglip_tiles_kernel<.*, true, true>", "barrier", (2,), _AFTER_LOSSES),
    ("sampled_logits_runs_kernel", "shuffle", range(8, 16), "every lane has the weight 1"),
)


@dataclass(frozen=True)
class Mutant:
    kernel: str  # mangled
    kind: str
    place: int  # among those of its kind
    changes: tuple[tuple[int, str, str], ...]  # lines of the kernel's own text, before and after

    def text(self) -> str:
        """Of the kernel."""
        lines = text_of_kernel(self.kernel).splitlines()
        for number, _, after in self.changes:
            lines[number] = after
        return "\n".join(lines)

    def trap(self) -> Mutant:
        """One that dies wherever this one is reached."""
        number, before, _ = self.changes[0]
        return replace(self, changes=((number, before, "trap;"),))

    def __str__(self) -> str:
        """Each line before and after."""
        return f"{self.kind} {self.place}: " + "; ".join(
            f"line {n}: {b} -> {a or 'nothing'}" for n, b, a in self.changes
        )


text_of_kernel = cache(text_of)


def mutants(kernel: str, equivalent: bool = False) -> list[Mutant]:
    """All of one kernel, but those of EQUIVALENT; or these alone."""
    (name,) = cuda_static.demangled([kernel])
    every, places = [], Counter[str]()
    for kind, changes in _changes(kernel):
        every.append(Mutant(kernel, kind, places[kind], tuple(changes)))
        places[kind] += 1
    return [m for m in every if _is_equivalent(name, m) == equivalent]


def _is_equivalent(name: str, mutant: Mutant) -> bool:
    return any(
        re.search(kernels, name) and mutant.kind == kind and mutant.place in places
        for kernels, kind, places, _ in EQUIVALENT
    )


def _changes(kernel: str) -> Iterator[tuple[str, list[tuple[int, str, str]]]]:
    """Of a kind, in the order of the text; the halves of a shuffle of 64 bits together."""
    halves: dict[str, str] = {}  # register -> the instruction that unpacked it with another
    shuffles: dict[tuple[str, str], list[tuple[int, str, str]]] = {}
    for number, line in enumerate(text_of_kernel(kernel).splitlines()):
        text = line.strip()
        unpacked = re.match(r"mov\.b64\s+\{(%\w+),\s*(%\w+)\}", text)
        if unpacked:
            halves |= dict.fromkeys(unpacked.groups(), text)
        for kind, after in _mutations(text):
            change = number, text, after
            if kind != "shuffle":
                yield kind, [change]
                continue
            source, lane = re.findall(r"%\w+|\d+", text.partition(",")[2])[:2]
            key = halves.get(source, source), lane
            shuffles.setdefault(key, []).append(change)
    for changes in shuffles.values():
        yield "shuffle", changes


def _mutations(text: str) -> Iterator[tuple[str, str]]:
    if text.startswith(("bar.sync", "bar.warp.sync")):
        yield "barrier", ""
    elif text.startswith("cp.async.wait_group"):
        yield "wait", ""
    elif text.startswith("cp.async.commit_group"):
        yield "commit", ""
    elif text.startswith("shfl.sync"):  # a lane is left with what it has
        to, source = re.findall(r"%r\w+", text)[:2]
        yield "shuffle", f"mov.b32 {to}, {source};"
    elif text.startswith("mma.sync"):
        registers = re.findall(r"\{[^}]*\}", text)
        a = registers[1][1:-1].split(",")
        swapped = "{" + ",".join([a[0], a[2], a[1], a[3]]) + "}"
        yield "matrix", text.replace(registers[1], swapped)
    found = re.match(r"setp\.(lt|ge|gt|le)\.[su](32|64)\s", text)
    if found:
        other = {"lt": "le", "ge": "gt", "gt": "ge", "le": "lt"}[found[1]]
        yield "bound", text.replace(f"setp.{found[1]}.", f"setp.{other}.", 1)
