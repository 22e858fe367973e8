"""Forms that reach what those of `verify` do not: other kernels, or more of one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from sslkern.reference._common import normalize_rows
from sslkern.verification import inputs, terms
from sslkern.verification.forms import STUDENT_TEMPERATURE, TEMPERATURE, Form, sinkhorn_form
from sslkern.verification.terms import Values

_sinkhorn = partial(sinkhorn_form, names=("queue", "row_weight"))


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


def fragments(count: int) -> Tensor:
    """Of columns: which of a warp's four matrices of float32 has them (csrc/cuda/product.cuh)."""
    column = torch.arange(count)
    return column // 16 % 2 * 2 + column // 2 % 2


def _concentrated(n: int, dim: int, g: Generator) -> Values:
    """Rows with all their length in eight dims: what float32 adds to tf32 counts.

    Along many dims its roundings of one logit cancel, and less is left than may be. Every row is
    like one class in each fragment, and every step along the dims has rows of each fragment.
    """
    x = inputs.vocabulary(n, dim, g)
    count = n // 32 * 16
    dims = torch.arange(dim) // 8 == (torch.arange(count) // 4 % min(4, dim // 8))[:, None]
    rows = 3 * normalize_rows(dims * torch.randn(count, dim, generator=g, dtype=torch.float64))
    classes, fragment = x["weight"].clone(), fragments(len(x["weight"]))
    for k in range(4):
        like = (fragment == k).nonzero().flatten()[:count]
        classes[like] = rows[torch.randperm(count, generator=g)]
    more = {"input": rows[torch.arange(n) % count], "weight": classes, "bias": 0.1 * x["bias"]}
    return x | more


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
    Form(  # at the default epsilon: lower ones give equal shares to prototypes of one row alone
        "sinkhorn",
        "hard",
        inputs.assigned,
        lambda _: terms.Terms({"plan": 1.0}),
        None,
        constants=("scores",),
        options={"hard": True},
        result="plan",
    ),
    _sinkhorn("no iterations", inputs.assigned, iterations=0),
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
