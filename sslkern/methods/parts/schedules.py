"""Schedules: numbers that depend on the share of the training that is done."""

from __future__ import annotations

import math

from sslkern.ops._common import check_number, refuse


def warmup_cosine(progress: float, warmup: float = 0.1, final: float = 0.0) -> float:
    """Factor of the learning rate: a line from 0 to 1, then half a cosine down to ``final``.

    At progress 0 the factor is 0, as in the code of SimCLR, BYOL, Barlow Twins and MoCo v3: a first
    step of that rate moves nothing. ``(step + 1) / steps`` in place of ``step / steps`` makes the
    first step count.

    Args:
        progress: Share of the training that is done, from 0 to 1.
        warmup: Share of the training that the line takes, from 0 to below 1.
        final: The factor at the end, from 0 to 1.

    Returns:
        The factor, from 0 to 1.

    Raises:
        ValueError: For an argument outside its range.
        TypeError: For one that is no number.

    Example:
        >>> from sslkern.methods.parts.schedules import warmup_cosine
        >>> [round(warmup_cosine(p / 10, warmup=0.2), 3) for p in (0, 1, 2, 6, 10)]
        [0.0, 0.5, 1.0, 0.5, 0.0]

    Source: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017,
    https://arxiv.org/abs/1706.02677, for the line; Loshchilov and Hutter, "SGDR: Stochastic
    Gradient Descent with Warm Restarts", 2016, https://arxiv.org/abs/1608.03983, for the cosine
    """
    op = "warmup_cosine"
    check_share(progress, "progress", op)
    check_share(final, "final", op)
    check_number(warmup, "warmup", op)
    if not 0 <= warmup < 1:
        refuse(op, "warmup", "from 0 to below 1", warmup)
    if progress < warmup:
        return progress / warmup
    return _blend(1.0, final, _cosine_weight((progress - warmup) / (1 - warmup)))


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from ``start`` to ``end``, flat at both.

    Momenta of teachers rise so, ``cosine(0.996, 1, progress)``, and weight decays.

    Args:
        start: The number at progress 0; finite.
        end: The number at progress 1; finite.
        progress: Share of the training that is done, from 0 to 1.

    Returns:
        The number; ``start`` and ``end`` themselves at the ends.

    Raises:
        ValueError: For an argument outside its range.
        TypeError: For one that is no number.

    Example:
        >>> from sslkern.methods.parts.schedules import cosine
        >>> [round(cosine(0.996, 1.0, p), 4) for p in (0, 0.5, 1)]
        [0.996, 0.998, 1.0]

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016,
    https://arxiv.org/abs/1608.03983
    """
    _check_ends(start, end, progress, "cosine")
    return _blend(start, end, _cosine_weight(progress))


def linear(start: float, end: float, progress: float) -> float:
    """A line from ``start`` to ``end``.

    Temperatures of teachers warm up so, ``linear(0.04, 0.07, progress)``.

    Args:
        start: The number at progress 0; finite.
        end: The number at progress 1; finite.
        progress: Share of the way that is done, from 0 to 1.

    Returns:
        The number; ``start`` and ``end`` themselves at the ends.

    Raises:
        ValueError: For an argument outside its range.
        TypeError: For one that is no number.

    Example:
        >>> from sslkern.methods.parts.schedules import linear
        >>> [round(linear(0.04, 0.07, p), 3) for p in (0, 0.5, 1)]
        [0.04, 0.055, 0.07]

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021,
    https://arxiv.org/abs/2104.14294, whose teacher temperature follows it
    """
    _check_ends(start, end, progress, "linear")
    return _blend(start, end, 1 - progress)


def check_share(value: float, name: str, op: str) -> None:
    """Reject what is no number from 0 to 1."""
    check_number(value, name, op)
    if not 0 <= value <= 1:
        refuse(op, name, "from 0 to 1", value)


def _check_ends(start: float, end: float, progress: float, op: str) -> None:
    for name, value in (("start", start), ("end", end)):
        check_number(value, name, op)
        if not math.isfinite(value):
            refuse(op, name, "finite", value)
    check_share(progress, "progress", op)


def _cosine_weight(progress: float) -> float:
    """From 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


def _blend(start: float, end: float, weight: float) -> float:
    """Exact where the weight of the start is 1 or 0."""
    return float(weight * start + (1 - weight) * end)
