"""Comparisons with the float64 references that launch every CUDA kernel, in few sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import kernel_checks as checks
import tf32
import torch
from kernel_forms import MORE_FORMS

from sslkern.cli import verify
from sslkern.cli.arguments import DTYPES
from sslkern.verification.forms import FORMS
from sslkern.verification.terms import Values

Sizes = Sequence[tuple[int, int]]
Checks = Sequence[tuple[str, checks.Check, Sizes]]  # of an operator, in these sizes

# Ragged, of one tile and several, with rows of one chunk, of two and of many: those stay in shared
# memory or stream through it. Twelve dims are one chunk in any dtype.
SIZES = ((120, 60), (130, 127), (258, 40), (258, 264), (130, 12), (120, 264))
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
LOW = 0.005  # of temperatures and epsilons
TF32 = "tf32"  # not a dtype of tensors: float32 whose products are rounded
_DTYPES = DTYPES | {TF32: torch.float32}

MORE_CHECKS: Checks = (
    ("sinkhorn", checks.diagnoses, _ROWS),
    ("sinkhorn", checks.settles, _ROWS),
    ("sinkhorn", checks.chooses, _ROWS),
    ("info_nce", checks.ranks, SIZES),
    ("info_nce", checks.exact_ranks, SIZES),
    ("info_nce", checks.close_ranks, SIZES),
    ("info_nce", checks.ranges, ((640, 8),)),
    ("sampled_logits", checks.misses, _SAMPLES),
    ("sampled_logits", checks.exact_sums, _SAMPLES),
    ("linear_cross_entropy", checks.units, ((1024, 8),)),
    ("linear_cross_entropy", checks.axes, ((258, 64), (258, 264))),
    ("siglip", checks.lifts, ((1024, 40),)),
)

_IN_BOTH_DIRECTIONS = (
    "info_nce, symmetric",
    "info_nce, symmetric smoothing",
    "info_nce, two ids, smoothing",
    "info_nce, symmetric, of columns",
)

# Walks of an odd number of chunks, after which both halves of the memory are in use.
_WALKS = {
    "ntxent": ("ntxent",),
    "info_nce": (
        *("info_nce", "info_nce, smoothing", "info_nce, of columns"),
        *_IN_BOTH_DIRECTIONS,
    ),
    "supcon": ("supcon, out", "supcon, pairwise"),
    "siglip": ("siglip", "siglip, mean"),
    "linear_cross_entropy": tuple(
        f"linear_cross_entropy{about}" for about in ("", ", mean", ", probabilities", ", smoothing")
    ),
}
_LARGE_CLASS = checks.of_forms("supcon, large class")
ODD_CHECKS: Checks = (
    *(
        (op, checks.in_blocks(6, checks.of_forms(form)), ((258, 264),))
        for op, forms in _WALKS.items()
        for form in forms
    ),
    ("info_nce", checks.in_blocks(6, checks.exact_ranks), ((258, 264),)),
    # A row's class leaves columns before it and behind it; three tiles.
    ("supcon", checks.in_blocks(1, _LARGE_CLASS), ((258, 12), (258, 264))),
)

# In parts of the rows where other sizes of rows times columns need one: of three tiles.
_PARTED = {
    "ntxent": ("ntxent",),
    "info_nce": (*_IN_BOTH_DIRECTIONS, "info_nce, of columns"),
    "supcon": ("supcon, out",),
    "siglip": ("siglip, mean",),
    "linear_cross_entropy": ("linear_cross_entropy, mean",),
}
PARTED_CHECKS: Checks = [
    (op, checks.in_parts(checks.of_forms(*forms)), ((258, 12),)) for op, forms in _PARTED.items()
]

# Those that hold whatever rounds the products.
ROUGH_CHECKS = (
    *(checks.ranks, checks.exact_ranks, checks.ranges),
    *(checks.units, checks.axes, checks.lifts),
)


@dataclass(frozen=True, eq=False)
class Case:
    """Comparisons of an operator in one size."""

    form: str  # or what is checked: this, dtype and size decide which kernels are launched
    about: str
    size: tuple[int, int]
    passes: Callable[[], bool]


def cases_of(op: str, dtypes: Sequence[str], sizes: Sizes = ()) -> Iterator[Case]:
    """Few of each: what decides which kernel is launched is mostly the dtype.

    Of given sizes, or of SIZES and of more that only some kernels are checked in.
    """
    for name in dtypes:
        yield from _of_forms(op, name, sizes or SIZES_OF.get(op, SIZES))
        yield from _of_checks(op, name, sizes, (*MORE_CHECKS, *ODD_CHECKS, *PARTED_CHECKS))


def _of_forms(op: str, name: str, sizes: Sizes) -> Iterator[Case]:
    rounds = name == TF32
    passes = _agrees_by_tf32 if rounds else checks.agrees
    forms = [form for form in (*FORMS, *MORE_FORMS) if form.op == op]
    for size in sizes:
        for setting in (s for form in forms for s in verify.settings(form, [_DTYPES[name]])):
            if _is_chosen(setting, rounds) and not _is_rounded_by_the_reference(setting):
                about = f"{setting}, {name}"
                yield Case(setting.form.name, about, size, partial(passes, setting, size, {}))


def parted_cases_of(op: str, name: str) -> Iterator[Case]:
    """Those of PARTED_CHECKS alone."""
    yield from _of_checks(op, name, (), PARTED_CHECKS)


def _of_checks(op: str, name: str, sizes: Sizes, among: Checks) -> Iterator[Case]:
    rounds = name == TF32
    for of, check, own in among:
        if of != op or (rounds and check not in ROUGH_CHECKS):
            continue
        passes = partial(_by_tf32, check) if rounds else check
        for size in own:
            if not sizes or size in sizes:
                about = f"{check.__name__} of {op}, {name}"
                yield Case(check.__name__, about, size, partial(passes, _DTYPES[name], size))


def _is_chosen(setting: verify.Setting, rounds: bool) -> bool:
    """Normalised rows at one temperature, others at a low one; with one option alone, both.

    Where tf32 rounds products none are normalised, which would round as well.
    """
    return any(
        setting.normalize in (None, normalize) and setting.temperature in (None, temperature)
        for normalize, temperature in ((not rounds, 0.1), (False, LOW))
    )


def _is_rounded_by_the_reference(setting: verify.Setting) -> bool:
    """In float64, which the reference has no more digits than: by more than the floor is for."""
    low = setting.form.op == "sinkhorn" and setting.temperature == LOW
    cancels = setting.form.name == "barlow_twins, apart"
    return setting.dtype == torch.float64 and (low or cancels)


def _by_tf32(passes: Callable[..., bool], *given: Any) -> bool:
    with tf32.allowed():
        return passes(*given)


def _agrees_by_tf32(
    setting: verify.Setting, size: tuple[int, int], references: dict[torch.dtype, Values]
) -> bool:
    with tf32.verified():
        return checks.agrees(setting, size, references)
