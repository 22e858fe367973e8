"""The inputs of the forms: N, D and a generator -> tensors, the floating ones in float64.

Where a temperature scales their products, rows have a norm of about 1.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from sslkern.reference._common import normalize_rows
from sslkern.verification.terms import Values

IGNORED = -100
MASSES = (1.0, 0.3, 0.0, 5.0)
"""Of the rows of a teacher's probabilities, in turn."""


def _rows(n: int, dim: int, g: Generator) -> Tensor:
    """Of norm about 1."""
    z = torch.randn(n, dim, generator=g, dtype=torch.float64)
    return z / math.sqrt(dim)


def _unit(n: int, dim: int, g: Generator) -> Tensor:
    return normalize_rows(_rows(n, dim, g))


def views(n: int, dim: int, g: Generator) -> Values:
    """Of a batch of N."""
    return {"z_a": _rows(n, dim, g), "z_b": _rows(n, dim, g)}


def view(n: int, dim: int, g: Generator) -> Values:
    """One alone."""
    return {"z": _rows(n, dim, g)}


def views_of_half(n: int, dim: int, g: Generator) -> Values:
    """N rows in all."""
    return views(n // 2, dim, g)


def views_to_whiten(n: int, dim: int, g: Generator) -> Values:
    """More rows than twice their width."""
    return views(n + 2 * dim, dim, g)


def views_and_covariance(n: int, dim: int, g: Generator) -> Values:
    """That of other rows."""
    earlier = _unit(4 * n, dim, g)
    return views(n, dim, g) | {"state": earlier.T @ earlier / len(earlier)}


def three_views(n: int, dim: int, g: Generator) -> Values:
    """That resemble each other."""
    shared = _rows(n, dim, g)
    return {"views": torch.stack([shared + _rows(n, dim, g) for _ in range(3)], dim=1)}


def points(n: int, dim: int, g: Generator) -> Values:
    """Rows alone."""
    return {"x": _rows(n, dim, g)}


def rows(n: int, dim: int, g: Generator) -> Values:
    """The same by another name."""
    return {"z": _rows(n, dim, g)}


def query_key(n: int, dim: int, g: Generator) -> Values:
    """Independent rows."""
    return {"query": _rows(n, dim, g), "key": _rows(n, dim, g)}


def with_negatives(n: int, dim: int, g: Generator) -> Values:
    """And more of them than keys."""
    return query_key(n, dim, g) | {"negatives": _rows(2 * n + 1, dim, g)}


def with_queue(n: int, dim: int, g: Generator) -> Values:
    """The same for ReSSL."""
    return query_key(n, dim, g) | {"queue": _rows(2 * n + 1, dim, g)}


def images_and_texts(n: int, dim: int, g: Generator) -> Values:
    """Unit rows, where a text resembles its image."""
    image = _unit(n, dim, g)
    return {"image_features": image, "text_features": normalize_rows(image + _rows(n, dim, g))}


def with_bias(n: int, dim: int, g: Generator) -> Values:
    """SigLIP's first bias."""
    bias = torch.tensor(-10.0, dtype=torch.float64)
    return images_and_texts(n, dim, g) | {"logit_bias": bias}


def classes_of_three(n: int, dim: int, g: Generator) -> Values:
    """A last class has what remains, where that is one row without a positive."""
    return {"z": _rows(n, dim, g), "labels": torch.arange(n) // 3}


def vocabulary(n: int, dim: int, g: Generator) -> Values:
    """Logits up to about 10, every fourth row ignored."""
    classes = 2 * n + 1
    target = torch.randint(classes, (n,), generator=g)
    target[::4] = IGNORED
    return {
        "input": 3 * _rows(n, dim, g),
        "weight": 3 * _rows(classes, dim, g),
        "bias": torch.randn(classes, generator=g, dtype=torch.float64),
        "target": target,
    }


def vocabulary_of_probabilities(n: int, dim: int, g: Generator) -> Values:
    """For every row."""
    scores = torch.randn(n, 2 * n + 1, generator=g, dtype=torch.float64)
    return vocabulary(n, dim, g) | {"target": (2 * scores).softmax(1)}


def scores(n: int, dim: int, g: Generator) -> Values:
    """Of 9 D classes, where the student resembles its teacher."""
    teacher, noise = (torch.randn(n, 9 * dim, generator=g, dtype=torch.float64) for _ in "tn")
    center = torch.randn(9 * dim, generator=g, dtype=torch.float64)
    student = ((teacher + noise) / 4).clamp(-1, 1)
    return {"student": student, "teacher": teacher, "center": center}


def probabilities(n: int, dim: int, g: Generator) -> Values:
    """Rows of any mass, also none."""
    x = scores(n, dim, g)
    mass = torch.tensor(MASSES, dtype=torch.float64).repeat(n)[:n, None]
    return {"student": x["student"], "teacher": mass * x["teacher"].softmax(1)}


def table(n: int, dim: int, g: Generator) -> Values:
    """Twenty rows of a table for each query."""
    index = torch.randint(2 * n + 1, (n, 20), generator=g)
    return {"query": _rows(n, dim, g), "table": _rows(2 * n + 1, dim, g), "index": index}


def samples(n: int, dim: int, g: Generator) -> Values:
    """Unit rows, where a query resembles its positive."""
    table = _unit(2 * n + 1, dim, g)
    return {
        "query": normalize_rows(table[:n] + _rows(n, dim, g)),
        "table": table,
        "positive": torch.arange(n),
        "negative": torch.randint(2 * n + 1, (n, 20), generator=g),
    }


def with_normalizer(n: int, dim: int, g: Generator) -> Values:
    """Somewhat more than a table of zeros has."""
    log_z = torch.tensor(math.log(2 * n + 1) + 0.3, dtype=torch.float64)
    return samples(n, dim, g) | {"log_normalizer": log_z}


def _cosines(n: int, dim: int, g: Generator) -> Tensor:
    """Scores of prototypes that differ in how much they are liked."""
    both = torch.randn(n, dim, generator=g, dtype=torch.float64)
    return ((both + both[:1]) / 4).clamp(-1, 1)


def assigned(n: int, dim: int, g: Generator) -> Values:
    """Scores of D prototypes."""
    return {"scores": _cosines(n, dim, g)}


def assigned_with_queue(n: int, dim: int, g: Generator) -> Values:
    """And those of earlier rows."""
    return assigned(n, dim, g) | {"queue": _cosines(n + 1, dim, g)}


def assigned_with_shares(n: int, dim: int, g: Generator) -> Values:
    """Prototypes by a power law, and a row of three without a weight."""
    share = torch.arange(1, dim + 1, dtype=torch.float64) ** -0.5
    weight = torch.tensor([1.0, 0.3, 0.0], dtype=torch.float64).repeat(n)[:n]
    shares = {"prototype_marginal": share / share.sum(), "row_weight": weight}
    return assigned(n, dim, g) | shares


def assigned_probabilities(n: int, dim: int, g: Generator) -> Values:
    """Sharpened; zeros among them, but no prototype without a row."""
    p = (20 * _cosines(n, dim, g)).softmax(1).clamp(min=1e-4)
    p[1::2, 1::2] = 0
    return {"scores": p / p.sum(1, keepdim=True)}


def crops(n: int, dim: int, g: Generator) -> Values:
    """Scores of two views that are assigned and of two that only predict."""
    names = ("high_res_0", "high_res_1", "low_res_0", "low_res_1")
    return {name: _cosines(n, dim, g) for name in names}


def crops_with_queue(n: int, dim: int, g: Generator) -> Values:
    """And of earlier rows of those that are assigned."""
    return crops(n, dim, g) | {name: _cosines(n + 1, dim, g) for name in ("queue_0", "queue_1")}
