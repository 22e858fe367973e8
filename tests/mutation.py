"""Mutants of the kernels' PTX: would the tests notice if a barrier were missing?

One instruction of a kernel is deleted or corrupted, the operators that launch it are compared with
their float64 references on the emulation, and the mutant is killed by a miss, a finding or a crash.
Mutants of synchronisation, shuffles and matrix instructions must all be killed, but those of
EQUIVALENT; those of bounds, each shifted by one, may be equivalent. Of a survivor is said whether
its instruction was reached at all.

    python tests/mutation.py --op all                        every mutant of every kernel: hours
    python tests/mutation.py --op ntxent,dcl --sample 20     some of the kernels of two operators
    python tests/mutation.py --op ntxent --kernel fwd --kinds barrier,wait
    python tests/mutation.py --op supcon --kinds matrix --each 3    some of every kernel
"""

from __future__ import annotations

import argparse
import math
import mmap
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, groupby, product
from pathlib import Path
from typing import Any
from unittest import mock

import cuda_static
import emulation
import tf32
import torch
from test_sentryward import text_of
from torch import Generator, Tensor

import sslkern
import sslkern.ops._extension as extension
from sslkern import reference
from sslkern.cli import verify
from sslkern.cli.arguments import DTYPES
from sslkern.ops.info_nce import positive_rank
from sslkern.reference._common import normalize_rows
from sslkern.verification import inputs, terms
from sslkern.verification.forms import EPSILON, FORMS, STUDENT_TEMPERATURE, TEMPERATURE, Form
from sslkern.verification.terms import Values

Sizes = Sequence[tuple[int, int]]

# Ragged, of one tile and several, with rows of one chunk, of two and of many: those stay in shared
# memory or stream through it. Twelve dims are one chunk in any dtype.
SIZES = ((120, 60), (130, 127), (258, 40), (258, 520), (130, 12), (120, 520))
# Where the length of a row decides: a warp takes it, or a block, or several.
_ROWS = ((6, 8), (130, 127), (258, 40), (20, 300), (60, 300), (20, 700), (30, 700), (9, 4200))
_COLUMNS = ((6, 8), (130, 127), (140, 300), (69, 70))
_SAMPLES = ((6, 8), (40, 127), (40, 40), (10, 300))
SIZES_OF = {
    "ressl": SIZES[:2],
    "sinkhorn": _ROWS,
    "swav": _ROWS,
    "soft_cross_entropy": (
        *((6, 8), (5, 112), (5, 113), (5, 127), (5, 128)),
        *((5, 300), (2, 911), (2, 912), (2, 27000)),
    ),
    **dict.fromkeys(("sampled_logits", "negative_sampling", "sampled_nce"), _SAMPLES),
    **dict.fromkeys(("barlow_twins", "vicreg", "covariance", "variance", "invariance"), _COLUMNS),
}
KINDS = ("barrier", "wait", "commit", "shuffle", "matrix", "bound")
TF32 = "tf32"  # not a dtype of tensors: float32 whose products are rounded
MUST_DIE = KINDS[:-1]
MOST_STEPS = 300_000_000
COLUMN_BLOCKS = 3  # blocks that share a row of tiles: few, so that each walks along several


# ---- what the forms of `verify` do not reach


def _sinkhorn(about: str, make: Callable[[int, int, Generator], Values], **options: Any) -> Form:
    return Form(
        "sinkhorn",
        about,
        make,
        terms.sinkhorn,
        EPSILON,
        constants=("scores", "queue", "row_weight"),
        options=options,
        result="plan",
    )


def _info_nce(about: str, make: Callable[[int, int, Generator], Values], **options: Any) -> Form:
    of_columns = make is _of_columns

    def sizes(case: terms.Case) -> terms.Terms:
        case = case._replace(factor=10.0) if of_columns else case
        found = terms.contrast(case, "query", "key", largest=terms.LARGEST_LOGIT_APART)
        more = {"bias": 4 / case.losses, "temperature": 400 / case.losses} if of_columns else {}
        return found._replace(sizes=found.sizes | more)

    return Form(
        "info_nce_loss",
        about,
        make,
        sizes,
        None if of_columns else TEMPERATURE,
        normalizes=True,
        options={"reduction": "none"} | options,
    )


def _with_ids(n: int, dim: int, g: Generator) -> Values:
    """Of which neighbours have the same."""
    return inputs.query_key(n, dim, g) | {"ids": torch.arange(n) // 2}


def _with_two_ids(n: int, dim: int, g: Generator) -> Values:
    """Half of the pairs do not count, in no pattern: no two lanes count as many."""
    ids = {name: torch.randint(2, (n,), generator=g) for name in ("ids", "key_ids")}
    return inputs.query_key(n, dim, g) | ids


def _of_columns(n: int, dim: int, g: Generator) -> Values:
    """And a bias and a temperature of each key, whose inverse is exact in any dtype."""
    bias = torch.randn(n, generator=g, dtype=torch.float64)
    columns = {"bias": bias, "temperature": torch.where(bias < 0, 1 / 8, 1 / 16)}
    return _with_ids(n, dim, g) | columns


def _two_lengths(n: int, dim: int, g: Generator) -> Values:
    """Every other row is short, so that its logits are far from those of its neighbours."""
    length = torch.tensor([1.0, 0.02], dtype=torch.float64).repeat(n)[:n, None]
    x = inputs.images_and_texts(n, dim, g)
    return {"query": length * x["image_features"], "key": length * x["text_features"]}


def _large_class(n: int, dim: int, g: Generator) -> Values:
    """That fills whole tiles, between two small ones."""
    row = torch.arange(n)
    labels = (row >= n // 4).long() + (row >= n - 2).long()
    return inputs.classes_of_three(n, dim, g) | {"labels": labels}


def _concentrated(n: int, dim: int, g: Generator) -> Values:
    """Rows with all their length in eight dims, like two classes: what float32 adds to tf32 counts.

    Along many dims its roundings of one logit cancel, and less is left than may be.
    """
    x = inputs.vocabulary(n, dim, g)
    dims = torch.arange(dim) // 8 == (torch.arange(n) % (dim // 8))[:, None]
    rows = 3 * normalize_rows(dims * torch.randn(n, dim, generator=g, dtype=torch.float64))
    classes = x["weight"].clone()
    classes[torch.randperm(2 * n, generator=g)] = rows.repeat(2, 1)
    return x | {"input": rows, "weight": classes, "bias": 0.1 * x["bias"]}


def _concentrated_probabilities(n: int, dim: int, g: Generator) -> Values:
    x = inputs.vocabulary_of_probabilities(n, dim, g)
    return x | {k: v for k, v in _concentrated(n, dim, g).items() if k != "target"}


def _frequent_rows(n: int, dim: int, g: Generator) -> Values:
    """Each of 70 negatives is one of three rows."""
    return inputs.samples(n, dim, g) | {"negative": torch.randint(3, (n, 70), generator=g)}


def _apart(n: int, dim: int, g: Generator) -> Values:
    """Columns of equal variance, hardly correlated: sums of products of rows nearly cancel."""
    angle = torch.arange(1.0, (n + 1) // 2)[:, None].double() * torch.arange(dim) / dim * math.tau
    frame = torch.cat((angle.cos(), angle.sin()))
    noise = torch.randn(n, len(frame), generator=g, dtype=torch.float64)
    z_a = torch.linalg.qr(noise - noise.mean(0)).Q @ frame
    return {"z_a": z_a, "z_b": z_a + 1e-3 * torch.randn(n, dim, generator=g, dtype=torch.float64)}


def _rows_of_one_warp(n: int, dim: int, g: Generator) -> Values:
    """One row of eight has a weight."""
    weight = (torch.arange(n) % 8 == min(7, n - 1)).double()
    return inputs.assigned(n, dim, g) | {"row_weight": weight}


def _sloping(inputs_of: Callable[[int, int, Generator], Values]) -> Callable[..., Values]:
    """Scores of a student that rise along one row and fall along the next."""

    def make(n: int, dim: int, g: Generator) -> Values:
        x = inputs_of(n, dim, g)
        slope = torch.linspace(-0.7, 0.7, 9 * dim, dtype=torch.float64)
        sign = 1.0 - 2.0 * (torch.arange(n) % 2)
        return x | {"student": 0.3 * x["student"] + sign[:, None] * slope}

    return make


MORE_FORMS = (
    Form(
        "soft_cross_entropy",
        "sloping",
        _sloping(inputs.scores),
        terms.soft_cross_entropy,
        STUDENT_TEMPERATURE,
        constants=("teacher", "center"),
    ),
    Form(
        "soft_cross_entropy",
        "sloping, probabilities",
        _sloping(inputs.probabilities),
        partial(terms.soft_cross_entropy, mass=max(inputs.MASSES)),
        STUDENT_TEMPERATURE,
        constants=("teacher",),
        options={"reduction": "none", "from_probabilities": True},
    ),
    Form(
        "linear_cross_entropy",
        "smoothing",
        inputs.vocabulary,
        terms.linear_cross_entropy,
        None,
        options={"reduction": "none", "label_smoothing": 0.1},
    ),
    Form("linear_cross_entropy", "concentrated", _concentrated, terms.linear_cross_entropy, None),
    Form(
        "linear_cross_entropy",
        "concentrated, smoothing",
        _concentrated,
        terms.linear_cross_entropy,
        None,
        options={"reduction": "none", "label_smoothing": 0.1},
    ),
    Form(
        "linear_cross_entropy",
        "concentrated, probabilities",
        _concentrated_probabilities,
        terms.linear_cross_entropy,
        None,
        constants=("target",),
    ),
    _info_nce("smoothing", inputs.query_key, label_smoothing=0.1),
    _info_nce("symmetric smoothing", inputs.query_key, symmetric=True, label_smoothing=0.1),
    _info_nce("ids", _with_ids),
    _info_nce("two ids, smoothing", _with_two_ids, symmetric=True, label_smoothing=0.1),
    _info_nce("of columns", _of_columns),
    _info_nce("symmetric, of columns", _of_columns, symmetric=True),
    _info_nce("symmetric, two lengths", _two_lengths, symmetric=True),
    Form(
        "supcon_loss",
        "large class",
        _large_class,
        lambda case: terms.contrast(case, "z", largest=terms.LARGEST_LOGIT_APART),
        normalizes=True,
    ),
    Form("negative_sampling_loss", "frequent rows", _frequent_rows, terms.samples, None),
    Form(
        "barlow_twins_loss",
        "apart",
        _apart,
        partial(terms.barlow_twins, weight=0.005),
        None,
        options={},
    ),
    Form(
        "covariance_loss",
        "apart",
        lambda n, dim, g: {"z": _apart(n, dim, g)["z_a"]},
        terms.columns,
        None,
        options={},
    ),
    Form(
        "vicreg_loss",
        "no covariance",
        inputs.views,
        terms.exact,
        None,
        options={"nu_param": 0.0},
    ),
    _sinkhorn("hard", inputs.assigned, hard=True),
    _sinkhorn("tolerance of some", _rows_of_one_warp, tolerance=0.3, iterations=20),
    *(
        _sinkhorn(f"tolerance {x}", make, tolerance=x, iterations=20)
        for x, make in (
            (0.1, inputs.assigned),
            (0.3, inputs.assigned),
            (1.5, inputs.assigned),
            (6.0, inputs.assigned_with_queue),
        )
    ),
)


def _diagnoses(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """What Sinkhorn's plan is said to be like."""
    scores = inputs.assigned(*size, Generator().manual_seed(0))["scores"].to(dtype)
    plan = reference.sinkhorn(scores.double())
    _, found = sslkern.sinkhorn(scores, return_diagnostics=True)
    entropy = torch.special.entr(plan).sum(1).mean()
    close = partial(torch.allclose, rtol=1e-4, atol=1e-4 / size[1])
    return close(found.usage, plan.mean(0)) and close(found.entropy, entropy)


def _rank_errors(query: Tensor, key: Tensor, negatives: Tensor) -> list[float]:
    """Of rows: by how many columns each way of asking for ranks is wrong on average."""
    row = torch.arange(len(query))
    target = torch.full_like(row, len(row) // 2)
    target[31::128], target[63::128] = 0, len(row) - 1  # of a tile, one in the first and the last
    ids = row // 2
    found = [
        positive_rank(query, key, negatives, in_batch=True),
        positive_rank(query, key, ids=ids),
        positive_rank(query, key, target=target),
    ]
    q, k, more = (normalize_rows(z.double()) for z in (query, key, negatives))
    dots = q @ torch.cat((k, more)).T
    larger = (dots > dots.diagonal()[:, None]).fill_diagonal_(False)
    own, among = ids[:, None] == ids, dots[:, : len(row)]
    than_target = (among > among.gather(1, target[:, None])).scatter(1, target[:, None], False)
    expected = larger.sum(1), (larger[:, : len(row)] & ~own).sum(1), than_target.sum(1)
    pairs = zip(found, expected, strict=True)
    return [float((f - e).abs().double().mean()) for f, e in pairs]


def _ranks(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """How many columns are more similar than the positive, but for what rounding may turn."""
    x = inputs.with_negatives(*size, Generator().manual_seed(0))
    return max(_rank_errors(*(x[k].to(dtype) for k in ("query", "key", "negatives")))) < 0.5


def _close_ranks(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """The same of columns that float32 tells apart and tf32 does not: 2^-17 between their cosines.

    A row has all its length in eight dims, and so have those that are nearly as similar to it.
    """
    if dtype.itemsize < 4:
        return True
    g, (n, dim) = Generator().manual_seed(0), size
    runs = torch.arange(2 * n)[:, None] % min(4, dim // 8)
    along = torch.randn(dim // 2, 2, generator=g, dtype=torch.float64)
    across = torch.stack((-along[:, 1], along[:, 0]), 1)  # at right angles, and as long
    u, v = (z.flatten() * (torch.arange(2 * (dim // 2)) // 8 == runs) for z in (along, across))
    cosine = 1 - torch.randperm(2 * n, generator=g)[:, None].double() * 2**-17
    columns = cosine * u + (1 - cosine**2).sqrt() * v
    return max(_rank_errors(*(z.to(dtype) for z in (u[:n], columns[:n], columns[n:])))) == 0


def _misses(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Samples that no row of the table has."""
    x = inputs.table(*size, Generator().manual_seed(0))
    x["index"][::2, ::3] = -1
    logits = sslkern.sampled_logits(x["query"].to(dtype), x["table"].to(dtype), x["index"])
    return torch.equal(logits.isnan(), x["index"] < 0)


def _gradient(function: verify.LossFn, x: Tensor, upstream: Tensor, **options: Any) -> Tensor:
    leaf = x.detach().requires_grad_()
    loss = function(leaf, **options, reduction="none")
    return torch.autograd.grad(loss, leaf, upstream.to(loss.dtype))[0].double()


def _units(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Gradients of a loss whose last row counts for far more than the others."""
    small, large = (1e-2, 1e4) if dtype == torch.float16 else (1e-30, 1e20)
    x = inputs.vocabulary(*size, Generator().manual_seed(0))
    rows, table = x["input"].to(dtype), x["weight"][:5].to(dtype)
    target = torch.arange(size[0]) // (size[0] - 1)
    ones, last = torch.ones(size[0]), torch.full(size[:1], small)
    last[-1] = large
    for upstream, weight in ((last, torch.ones(5)), (ones, torch.tensor([small, large, 1, 1, 1]))):
        found, expected = (
            _gradient(f, z, upstream, weight=t, target=target, class_weight=weight.to(z.dtype))[-1]
            for f, z, t in (
                (sslkern.linear_cross_entropy, rows, table),
                (reference.linear_cross_entropy, rows.double(), table.double()),
            )
        )
        if not torch.allclose(found, expected, rtol=0.05, atol=0.05 * large):
            return False
    return True


def _lifts(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Gradients of one long row among short ones, whose length is in one element."""
    n, dim = size
    rows = torch.zeros(n, dim, dtype=dtype)
    rows[-1, 31] = 1
    few = rows[-1:].repeat(8, 1)
    options = {"logit_scale": torch.tensor(10.0), "logit_bias": torch.tensor(-10.0)}
    for image, text in ((rows, few), (few, rows.roll(-len(few), 0))):
        found, expected = (
            _gradient(f, x, torch.ones(len(x)), text_features=t, negative_only=True, **options)
            for f, x, t in (
                (sslkern.siglip_loss, image, text),
                (reference.siglip_loss, image.double(), text.double()),
            )
        )
        if not torch.allclose(found, expected, rtol=0.01, atol=1e-3):
            return False
    return True


def _ranges(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Gradients where one key or one pair is far from all others, further than float32 reaches."""
    n, dim = size
    for row, key in ((None, 383), (511, 383), (639, 383)):  # of the last lanes and warps
        query, keys = torch.zeros(n, dim), torch.zeros(n, dim)
        query[:, 0] = 1
        if row is None:
            keys[key, 0] = -200
        else:
            query[row, 1], keys[key, 1] = 200, 1
        found, expected = (
            _gradient(
                f,
                query.to(t),
                torch.ones(n),
                key=keys.to(t),
                temperature=1.0,
                symmetric=True,
                normalize=False,
            )
            for f, t in (
                (sslkern.info_nce_loss, dtype),
                (reference.info_nce_loss, torch.float64),
            )
        )
        if not torch.allclose(found, expected, rtol=0.01, atol=0.01):
            return False
    return True


def _walks_twice(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Whether a block takes all columns that its rows' class leaves, before it and behind it."""
    extension.C.set_column_blocks(1)
    (form,) = (form for form in MORE_FORMS if form.op == "supcon")
    return _agrees(verify.Setting(form, dtype, normalize=True, temperature=0.1), size, {})


MORE_CHECKS = (
    ("sinkhorn", _diagnoses, _ROWS),
    ("info_nce", _ranks, SIZES),
    ("info_nce", _close_ranks, SIZES),
    ("info_nce", _ranges, ((640, 8),)),
    ("sampled_logits", _misses, _SAMPLES),
    ("linear_cross_entropy", _units, ((1024, 8),)),
    ("siglip", _lifts, ((1024, 40),)),
    ("supcon", _walks_twice, ((258, 12), (258, 520))),  # an odd number of chunks
)

ROUGH_CHECKS = (_ranks, _ranges, _units, _lifts)  # that hold whatever rounds the products


# ---- mutants

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
    ("info_nce_fwd_kernel<Tf32x3, .*, true, true>", "shuffle", (17, 18), _SHIFT),
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
        lines = _text_of(self.kernel).splitlines()
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


_text_of = cache(text_of)
_evaluate = verify._evaluate


def mutants(kernel: str) -> list[Mutant]:
    """All of one kernel, but those of EQUIVALENT."""
    (name,) = cuda_static.demangled([kernel])
    every, places = [], Counter[str]()
    for kind, changes in _changes(kernel):
        every.append(Mutant(kernel, kind, places[kind], tuple(changes)))
        places[kind] += 1
    return [m for m in every if not _is_equivalent(name, m)]


def _is_equivalent(name: str, mutant: Mutant) -> bool:
    return any(
        re.search(kernels, name) and mutant.kind == kind and mutant.place in places
        for kernels, kind, places, _ in EQUIVALENT
    )


def _changes(kernel: str) -> Iterator[tuple[str, list[tuple[int, str, str]]]]:
    """Of a kind, in the order of the text; the halves of a shuffle of 64 bits together."""
    halves: dict[str, str] = {}  # register -> the instruction that unpacked it with another
    shuffles: dict[tuple[str, str], list[tuple[int, str, str]]] = {}
    for number, line in enumerate(_text_of(kernel).splitlines()):
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


# ---- what may kill them


@dataclass(frozen=True, eq=False)
class Case:
    """Comparisons of an operator in one size."""

    about: str
    size: tuple[int, int]
    passes: Callable[[], bool]


def cases_of(op: str, dtypes: Sequence[str], sizes: Sizes = ()) -> Iterator[Case]:
    """Few of each: what decides which kernel is launched is mostly the dtype.

    Of given sizes, or of SIZES and of more that only some kernels are checked in.
    """
    asked = [getattr(torch, name) for name in dtypes if name != TF32]
    forms = [form for form in (*FORMS, *MORE_FORMS) if form.op == op]
    chosen_sizes = sizes or SIZES_OF.get(op, SIZES)
    for setting, size in _chosen(forms, asked, chosen_sizes):
        yield Case(str(setting), size, partial(_agrees, setting, size, {}))
    more = [
        (check, [size for size in own if not sizes or size in sizes])
        for of, check, own in MORE_CHECKS
        if of == op
    ]
    for check, own in more:
        for dtype, size in product(asked, own):
            yield Case(f"{check.__name__} of {op}, {dtype}", size, partial(check, dtype, size))
    if TF32 not in dtypes:
        return
    for setting, size in _chosen(forms, [torch.float32], chosen_sizes):
        if not setting.normalize:  # which would round
            about = f"{setting}, {TF32}"
            yield Case(about, size, partial(_agrees_by_tf32, setting, size, {}))
    for check, own in more:
        for size in own if check in ROUGH_CHECKS else ():
            about = f"{check.__name__} of {op}, {TF32}"
            yield Case(about, size, partial(_by_tf32, check, torch.float32, size))


def _chosen(
    forms: Sequence[Form], dtypes: list[torch.dtype], sizes: Sizes
) -> Iterator[tuple[verify.Setting, tuple[int, int]]]:
    for size in sizes:
        for setting in (s for form in forms for s in verify.settings(form, dtypes)):
            if _is_chosen(setting):
                yield setting, size


def _is_chosen(setting: verify.Setting) -> bool:
    """Normalised rows at one temperature, others at a low one; with one option alone, both."""
    return any(
        setting.normalize in (None, normalize) and setting.temperature in (None, temperature)
        for normalize, temperature in ((True, 0.1), (False, 0.005))
    )


def _agrees(
    setting: verify.Setting, size: tuple[int, int], references: dict[torch.dtype, Values]
) -> bool:
    """With the results of the references, which are computed once for all mutants."""

    def evaluate(function: verify.LossFn, x: Values, setting: verify.Setting) -> Values:
        if function is getattr(sslkern, setting.form.function):
            return _evaluate(function, x, setting)
        dtype = next(iter(x.values())).dtype
        if dtype not in references:
            references[dtype] = _evaluate(function, x, setting)
        return references[dtype]

    with mock.patch.multiple(verify, SIZES=(size,), _evaluate=evaluate):
        checks = verify.checks(setting, torch.device("cpu"))
        return all(check.agreement.passed for check in checks)


@dataclass
class Attempt:
    """A case on the mutants of one kernel, and what became of it so far."""

    case: Case
    seconds: float
    times: int = 0
    kills: int = 0

    @property
    def seconds_of_a_kill(self) -> float:
        """To be expected, after Laplace's rule of succession."""
        return self.seconds * (self.times + 2) / (self.kills + 1)


def _by_tf32(passes: Callable[..., bool], *given: Any) -> bool:
    with tf32.allowed():
        return passes(*given)


def _agrees_by_tf32(
    setting: verify.Setting, size: tuple[int, int], references: dict[torch.dtype, Values]
) -> bool:
    with tf32.verified():
        return _agrees(setting, size, references)


class Trial:
    """The cases of some operators on a library of PTX, by the kernels that they launch."""

    def __init__(self, ops: Sequence[str], dtypes: Sequence[str], sizes: Sizes) -> None:
        self.library = emulation.library("ptx")
        self.attempts_of: dict[str, list[Attempt]] = {}
        for case in chain.from_iterable(cases_of(op, dtypes, sizes) for op in ops):
            self.library.record(True)
            begin = time.perf_counter()
            assert self.passes(case), (case.about, case.size)
            seconds = time.perf_counter() - begin
            for kernel in {launch.kernel for launch in self.library.launches()}:
                self.attempts_of.setdefault(kernel, []).append(Attempt(case, seconds))
        self.library.record(False)
        self.running = mmap.mmap(-1, 8)  # the number of the attempt, seen by parent and child

    def passes(self, case: Case) -> bool:
        self.library.start()
        extension.C.set_column_blocks(COLUMN_BLOCKS)
        try:
            agree = case.passes()
        except (RuntimeError, ValueError, AssertionError):
            agree = False
        finally:
            extension.C.set_column_blocks()
            self.library.stop()
        return not self.library.findings() and agree

    def kills(self, mutant: Mutant) -> bool:
        """First comes what is expected to kill soonest, after the kernel's other mutants."""
        attempts = self.attempts_of[mutant.kernel]
        attempts.sort(key=lambda attempt: attempt.seconds_of_a_kill)
        survives = self._survives_here if mutant.kind == "matrix" else self._survives_in_a_child
        dies = not survives(mutant)
        last = int.from_bytes(self.running[:])
        for attempt in attempts[: last + 1]:
            attempt.times += 1
        attempts[last].kills += dies
        return dies

    def _survives_here(self, mutant: Mutant) -> bool:
        """Where nothing but numbers can be wrong."""
        try:
            return self._survives(mutant)
        finally:
            self._load(_text_of(mutant.kernel), now=False)

    def _survives_in_a_child(self, mutant: Mutant) -> bool:
        """In a process of its own, which it may crash and whose memory is given back."""
        child = os.fork()
        if child == 0:
            status = 2
            try:
                status = int(self._survives(mutant))
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status != 2, mutant
        return status == 1

    def _survives(self, mutant: Mutant) -> bool:
        self._load(mutant.text(), now=True)
        self.library.most_steps(MOST_STEPS)
        for number, attempt in enumerate(self.attempts_of[mutant.kernel]):
            self.running[:] = number.to_bytes(8)
            if not self.passes(attempt.case):
                return False
        return True

    def _load(self, text: str, now: bool) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(text)
            file.flush()
            self.library.load_ptx(Path(file.name), now)


@cache
def trial_of(ops: tuple[str, ...], dtypes: tuple[str, ...], sizes: Sizes = ()) -> Trial:
    return Trial(ops, dtypes, sizes)


def some_of_each(every: Sequence[Mutant], most: int, chance: random.Random) -> list[Mutant]:
    """At most so many of each kernel and kind."""
    groups: dict[tuple[str, str], list[Mutant]] = {}
    for mutant in every:
        groups.setdefault((mutant.kernel, mutant.kind), []).append(mutant)
    return [m for group in groups.values() for m in chance.sample(group, min(most, len(group)))]


def run(
    ops: Sequence[str],
    kernel: str,
    kinds: Sequence[str],
    sample: int | None = None,
    seed: int = 0,
    dtypes: Sequence[str] = (*DTYPES, TF32),
    each: int | None = None,
    sizes: Sizes = (),
) -> list[Mutant]:
    """Prints a line for each kernel and survivor, and a table; those that should have died.

    Of all mutants, or a sample of them, or of ``each`` kernel and kind at most so many.
    """
    torch.set_num_threads(1)  # a forked process waits for ever for OpenMP's threads: it has none
    trial = trial_of(tuple(ops), tuple(dtypes), tuple(sizes))
    names = dict(zip(trial.attempts_of, cuda_static.demangled(trial.attempts_of), strict=True))
    every = [m for k in names if re.search(kernel, names[k]) for m in mutants(k) if m.kind in kinds]
    assert every, "no kernel has such mutants"
    chance = random.Random(seed)
    if each is not None:
        every = some_of_each(every, each, chance)
    if sample is not None and sample < len(every):
        every = chance.sample(every, sample)
    every.sort(key=lambda mutant: names[mutant.kernel])
    total, killed, alive = Counter[str](), Counter[str](), list[Mutant]()
    for name, group in groupby(every, lambda mutant: names[mutant.kernel]):
        before = killed.total(), total.total()
        for mutant in group:
            total[mutant.kind] += 1
            if trial.kills(mutant):
                killed[mutant.kind] += 1
            elif mutant.kind in MUST_DIE:
                alive.append(mutant)
                why = "not noticed" if trial.kills(mutant.trap()) else "not reached"
                print(f"{why}: {name}, {mutant}", flush=True)
        counts = killed.total() - before[0], total.total() - before[1]
        print(f"{name}: {counts[0]} of {counts[1]} killed", flush=True)
    for kind in KINDS:
        if total[kind]:
            print(f"{kind:<8} {killed[kind]} of {total[kind]} killed")
    return alive


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--op", default="all", help="one or several, or all")
    parser.add_argument("--kernel", default="", help="regular expression of names")
    parser.add_argument("--dtypes", default=",".join((*DTYPES, TF32)))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--sizes", default="", help="rows x dims, as 120x60: cases of these alone")
    parser.add_argument("--sample", type=int, help="so many in all")
    parser.add_argument("--each", type=int, help="at most so many of each kernel and kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    every = dict.fromkeys(form.op for form in FORMS)
    ops = list(every) if given.op == "all" else given.op.split(",")
    kinds, dtypes = given.kinds.split(","), given.dtypes.split(",")
    sizes = [(int(n), int(dim)) for n, dim in re.findall(r"(\d+)x(\d+)", given.sizes)]
    found = run(ops, given.kernel, kinds, given.sample, given.seed, dtypes, given.each, sizes)
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
