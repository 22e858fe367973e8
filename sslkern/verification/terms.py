"""What errors are relative to: the size of the terms, where these nearly cancel.

Where a target dominates, a loss and its gradients are small differences of terms that are each
rounded at their own size. The sizes are those of the mean of the losses and its gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkern import reference

LARGEST_LOGIT = 200
"""What the rule's floor is for, where the roundings of the logits partly cancel."""
LARGEST_LOGIT_APART = 64
"""And where they do not, as that of a negative has no positive's beside it."""

Values = dict[str, Tensor]


class Case(NamedTuple):
    """One call: the inputs in float64, and what makes the size of its logits."""

    inputs: Values
    losses: int
    """Number of losses of which a mean is taken."""
    normalize: bool
    parameter: str
    """Name of the temperature or its like; empty where there is none."""
    value: float
    factor: float
    """What inner products are multiplied by: 1 / temperature."""

    def norms(self, *names: str) -> Tensor:
        """Of the rows of the named matrices."""
        return torch.cat([self.inputs[name].norm(dim=1) for name in names])


class Terms(NamedTuple):
    """Sizes of the terms of each result, by its name."""

    sizes: dict[str, float]
    beyond: float = 1.0
    """How far the logits exceed those that the floor is for; their rounding grows with them."""


def contrast(case: Case, *names: str, pairs: int = 1, largest: float = LARGEST_LOGIT) -> Terms:
    """Of a softmax over products of rows of the named matrices.

    1 for a loss, or each of its ``pairs``; |z| / temperature for a row's gradient, from its own
    loss and from those of others; max |z|^2 / temperature^2 for d loss / d temperature =
    (E[s] - s_positive) / temperature.
    """
    longest = 1.0 if case.normalize else float(case.norms(*names).max())
    logit = longest**2 * case.factor
    row = 2 * pairs * longest * case.factor / case.losses
    sizes = {"loss": pairs, case.parameter: pairs * logit / case.value} | dict.fromkeys(names, row)
    return Terms(sizes, max(1.0, logit / largest))


def uniformity(case: Case) -> Terms:
    """Exponents go down to -4 t, and every pair has a part in the gradients of both its rows."""
    row = 4 * case.value / case.losses / float(case.norms("x").min())
    sizes = {"value": 1.0, "x": row, "t": 4.0}
    return Terms(sizes, max(1.0, 4 * case.value / LARGEST_LOGIT_APART))


def siglip(case: Case, positives: bool = True) -> Terms:
    """The sums of magnitudes behind an element of each gradient; the loss has one sign."""
    image, text, bias = (case.inputs[k] for k in ("image_features", "text_features", "logit_bias"))
    dot = image @ text.T
    label = -torch.ones_like(dot)
    if positives:
        label.fill_diagonal_(1.0)
    grad = torch.sigmoid(-label * (case.factor * dot + bias)) / case.losses
    sizes = {
        "loss": 0.0,
        "image_features": case.factor * float((grad @ text.abs()).max()),
        "text_features": case.factor * float((grad.T @ image.abs()).max()),
        "logit_scale": float((grad * dot.abs()).sum()),
        "logit_bias": float(grad.sum()),
    }
    return Terms(sizes, max(1.0, (case.factor + abs(float(bias))) / LARGEST_LOGIT))


def linear_cross_entropy(case: Case, mean: bool = False) -> Terms:
    """The coefficients of p and of the target; a class has them from each row that is of it.

    The ``mean`` is over the rows that are not ignored.
    """
    target, bias = case.inputs["target"], case.inputs["bias"]
    longest_row, longest_class = (float(case.norms(k).max()) for k in ("input", "weight"))
    if target.is_floating_point():
        shared = max(1.0, float(target.sum(0).max()))
    else:
        shared = float(target[target >= 0].bincount().max())
    upstream = 2 / (int((target >= 0).sum()) if mean else case.losses)
    sizes = {
        "loss": 1.0,
        "input": upstream * longest_class,
        "weight": shared * upstream * longest_row,
        "bias": shared * upstream,
    }
    logit = longest_row * longest_class + float(bias.abs().max())
    return Terms(sizes, max(1.0, logit / LARGEST_LOGIT))


def soft_cross_entropy(case: Case, mass: float = 1.0) -> Terms:
    """The largest mass of a target, times the slope of a logit or the size of a score."""
    score = float(case.inputs["student"].abs().max())
    sizes = {
        "loss": mass,
        "student": mass * case.factor / case.losses,
        "student_temperature": mass * score * case.factor**2,
    }
    return Terms(sizes)


def ressl(case: Case, teacher_temperature: float) -> Terms:
    """A log-sum-exp and a mean logit for the loss, two means of rows for the gradient.

    A mean under a softmax has the relative error of its probabilities, that of a teacher's logit
    times its size.
    """
    longest = 1.0 if case.normalize else float(case.norms("query", "key", "queue").max())
    slope = 1 / float(case.norms("query").min()) if case.normalize else longest
    logit = longest**2 * case.factor
    sizes = {
        "loss": max(1.0, logit),
        "query": slope * case.factor / case.losses,
        "student_temperature": logit / case.value,
    }
    largest = max(logit, longest**2 / teacher_temperature)
    return Terms(sizes, max(1.0, largest / LARGEST_LOGIT_APART))


def sampled_logits(case: Case) -> Terms:
    """Sums of products: their magnitudes."""
    index = case.inputs["index"]
    query, table = (case.inputs[name].abs().requires_grad_() for name in ("query", "table"))
    logits = reference.sampled_logits(query, table, index)
    grads = torch.autograd.grad(logits.mean(), (query, table))
    sums = {"logits": logits.detach(), "query": grads[0], "table": grads[1]}
    return Terms({name: float(x.max()) for name, x in sums.items()})


def samples(case: Case) -> Terms:
    """Of losses of sampled logits: the slope of a logit, from each query that meets a row."""
    query, row = (float(case.norms(name).max()) for name in ("query", "table"))
    index = torch.cat([case.inputs["positive"], case.inputs["negative"].flatten()])
    sizes = {
        "loss": 1.0,
        "query": row * case.factor / case.losses,
        "table": int(index.bincount().max()) * query * case.factor / case.losses,
        "log_normalizer": 1.0,
        "temperature": query * row * case.factor**2,
    }
    return Terms(sizes)


def whole_batch(case: Case, *names: str, loss: float = 1.0) -> Terms:
    """Of one loss of all rows, which is a difference of sums of this size; its gradients are not.

    Errors of the gradients are relative to their largest elements.
    """
    return Terms({"loss": loss} | dict.fromkeys(names, 0.0))


def barlow_twins(case: Case, weight: float) -> Terms:
    """Gradients of standardised columns, most of which may be along the columns themselves."""
    z, eps = [case.inputs[name] for name in ("z_a", "z_b")], 1e-5
    scale = [(x.var(0, correction=0) + eps).rsqrt() for x in z]
    a, b = ((x - x.mean(0)) * s for x, s in zip(z, scale, strict=True))
    n = len(a)
    c = a.T @ b / n
    h = (2 * weight * c).fill_diagonal_(0.0) + 2 * torch.diag(c.diagonal() - 1)
    sizes = {
        "loss": 0.0,
        "z_a": float((b @ h.T / n * scale[0]).abs().max()),
        "z_b": float((a @ h / n * scale[1]).abs().max()),
    }
    return Terms(sizes)


def columns(case: Case, normalize: bool = False) -> Terms:
    """Of a sum of squared products of columns: the square of each with itself is left out of it."""
    sizes = dict.fromkeys(("loss", *case.inputs), 0.0)
    for name, z in case.inputs.items():
        x, u = z - z.mean(0), 1 / (z.shape[1] * (len(z) - 1) ** 2)
        scale = torch.ones_like(x[0])
        if normalize:
            scale, u = 1 / x.norm(dim=0), 1 / z.shape[1] ** 2
        x = x * scale
        sizes[name] = float((4 * u * x * x.square().sum(0) * scale).abs().max())
    return Terms(sizes)


def exact(case: Case) -> Terms:
    """Where no terms cancel."""
    return Terms(dict.fromkeys(("loss", *case.inputs), 0.0))


def sinkhorn(case: Case, from_probabilities: bool = False) -> Terms:
    """The largest share of a row; exponents are rounded at their own size."""
    scores = case.inputs["scores"]
    if from_probabilities:
        plan = reference.sinkhorn(scores, from_probabilities=True)
        return Terms({"plan": float(plan.max())})
    largest = float(reference.sinkhorn(scores, case.value).max())
    exponent = float(scores.abs().max()) * case.factor
    return Terms({"plan": largest}, max(1.0, exponent / LARGEST_LOGIT_APART))


def swapped_prediction(case: Case, epsilon: float = 0.05) -> Terms:
    """The slope of a logit for a mean over rows and over the other views, of as many targets."""
    views = [name for name in case.inputs if name.startswith(("high_res", "low_res"))]
    slope = case.factor / (case.losses * (len(views) - 1))
    largest = max(float(case.inputs[name].abs().max()) for name in views)
    exponent = largest * max(case.factor, 1 / epsilon)
    sizes = {"loss": 1.0} | dict.fromkeys(views, slope)
    return Terms(sizes, max(1.0, exponent / LARGEST_LOGIT_APART))
