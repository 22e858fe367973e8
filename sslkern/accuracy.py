"""The one accuracy rule: how far a kernel may be from the float64 reference, in any dtype.

On the same rounded inputs,

    err(kernel, reference in float64) <= 2 * err(eager in that dtype, reference in float64) + floor

so nobody tunes a tolerance: eager PyTorch shows what the dtype allows at this size and temperature,
and a kernel may be twice as far away, because it rounds in another order. The rule is applied to
the largest error and to the relative L2 error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_EPS_WORKING = 64
"""Floor of float32 and float64 results, in eps of the result's dtype.

Needed because eager may be exact by luck, and in float64 eager *is* the reference, so its error is
0. At the lowest temperature supported in tests, 0.005, logits reach 200 and carry a rounding error
of 200 * eps / 2, which a probability turns into a relative error of about 100 eps at worst and
about half of it in a gradient, where errors partly cancel. Measured: NT-Xent in another order of
summation, 30 seeds, 4 sizes, temperatures 0.5 to 0.005, misses the rule without a floor by at most
47 eps. A wrong formula, or one float32 step in a float64 path, misses it by orders of magnitude.
"""

_EPS_HALF = 1
"""Floor of float16 and bfloat16 results, in eps of the result's dtype.

Statistics are float32, so the error is that of storing the result: eps / 2 for one rounding, and
eps for a kernel that rounds twice.
"""

FLOOR: dict[torch.dtype, float] = {
    torch.float64: _EPS_WORKING * torch.finfo(torch.float64).eps,
    torch.float32: _EPS_WORKING * torch.finfo(torch.float32).eps,
    torch.bfloat16: _EPS_HALF * torch.finfo(torch.bfloat16).eps,
    torch.float16: _EPS_HALF * torch.finfo(torch.float16).eps,
}
"""Added to twice the eager error; keyed by the dtype of the *result* (a loss of bfloat16 inputs is
float32), relative to the scale of the reference."""


@dataclass(frozen=True)
class Agreement:
    """Errors of a kernel and of eager against the float64 reference, and what the rule allows."""

    max_error: float
    max_error_eager: float
    l2_error: float
    l2_error_eager: float
    cosine: float
    floor: float
    worst_index: tuple[int, ...]
    mismatch: str | None
    """Why errors mean nothing: another shape or dtype, NaN or inf where the reference has none."""

    @property
    def allowance_used(self) -> float:
        """The error as a part of what the rule allows: above 1 is a miss."""
        if self.mismatch is not None:
            return math.inf
        return max(
            self.max_error / (2 * self.max_error_eager + self.floor),
            self.l2_error / (2 * self.l2_error_eager + self.floor),
        )

    @property
    def passed(self) -> bool:
        """Whether the rule holds."""
        return self.allowance_used <= 1

    def __str__(self) -> str:
        """Both errors in one line; the cosine tells a wrong factor (1) from a wrong direction."""
        if self.mismatch is not None:
            return self.mismatch
        return (
            f"largest error {self.max_error:.3g} at {list(self.worst_index)}"
            f" (eager {self.max_error_eager:.3g}), relative L2 {self.l2_error:.3g}"
            f" (eager {self.l2_error_eager:.3g}), floor {self.floor:.3g},"
            f" cosine {self.cosine:.9f}"
        )


def compare(
    actual: Tensor, eager: Tensor, reference: Tensor, *, scale: float | None = None
) -> Agreement:
    """Measure ``actual`` and ``eager`` against the float64 ``reference``.

    Args:
        actual: The kernel's result.
        eager: The reference evaluated in the kernel's dtype on the same inputs.
        reference: The reference evaluated in float64 on the same (rounded) inputs.
        scale: What errors are relative to; the largest finite ``abs(reference)`` (for L2: the norm
            of the reference) by default. Give it for sums whose terms cancel, such as the
            temperature gradient or a gradient that is zero: rounding is proportional to the
            terms, not to what is left of them.
    """
    mismatch = _mismatch(actual, eager, reference)
    if mismatch is not None:
        nothing = (math.inf, math.nan, math.inf, math.nan, math.nan, 0.0, ())
        return Agreement(*nothing, mismatch=mismatch)
    # Where eager fails and the reference does not, eager says nothing about what is achievable.
    usable = torch.where(_same_kind(eager, reference), eager.double(), reference)
    return Agreement(
        max_error=max_error(actual, reference, scale=scale),
        max_error_eager=max_error(usable, reference, scale=scale),
        l2_error=l2_error(actual, reference, scale=scale),
        l2_error_eager=l2_error(usable, reference, scale=scale),
        cosine=cosine(actual, reference),
        floor=FLOOR[actual.dtype],
        worst_index=_worst_index(actual, reference),
        mismatch=None,
    )


def assert_accurate(
    actual: Tensor,
    eager: Tensor,
    reference: Tensor,
    what: str,
    *,
    scale: float | None = None,
) -> None:
    """Raise AssertionError unless ``actual`` satisfies the rule; see `compare` for the arguments.

    Args:
        actual: The kernel's result.
        eager: The reference in the kernel's dtype.
        reference: The reference in float64.
        what: Names the result in the message, for example ``"grad_z_a, float32, 62x33"``.
        scale: See `compare`.

    Raises:
        AssertionError: With both errors and the index of the worst element.
    """
    agreement = compare(actual, eager, reference, scale=scale)
    if not agreement.passed:
        raise AssertionError(f"{what}: {agreement}")


def max_error(actual: Tensor, reference: Tensor, *, scale: float | None = None) -> float:
    """Largest absolute error relative to the largest ``abs(reference)``.

    Returns inf for NaN or inf that the reference does not have. Against a reference of zeros the
    error is absolute.
    """
    if reference.numel() == 0:
        return 0.0
    if not bool(_same_kind(actual, reference).all()):
        return math.inf
    if scale is None:
        scale = float(torch.where(reference.isfinite(), reference.abs(), 0).max())
    return float(_difference(actual, reference).max()) / (scale or 1.0)


def l2_error(actual: Tensor, reference: Tensor, *, scale: float | None = None) -> float:
    """Euclidean norm of the error relative to that of ``reference``.

    Against a reference of zeros the error is absolute. With ``scale`` it is relative to a tensor
    that has this value everywhere.
    """
    if not bool(_same_kind(actual, reference).all()):
        return math.inf
    if scale is None:
        norm = _norm(torch.where(reference.isfinite(), reference.double(), 0))
    else:
        norm = scale * reference.numel() ** 0.5
    return _norm(_difference(actual, reference)) / (norm or 1.0)


def cosine(actual: Tensor, reference: Tensor) -> float:
    """Cosine of the angle between the two as vectors; 1 when both are zero, NaN if not finite."""
    a, b = actual.double().flatten(), reference.double().flatten()
    norms = _norm(a) * _norm(b)
    if norms == 0:
        return 1.0 if bool(torch.equal(a, b)) else 0.0
    return float(torch.dot(a, b)) / norms


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))


def _same_kind(actual: Tensor, reference: Tensor) -> Tensor:
    """Elementwise: both finite, both NaN, or the same infinity."""
    finite = actual.isfinite() & reference.isfinite()
    both_nan = actual.isnan() & reference.isnan()
    return finite | both_nan | (actual.double() == reference.double())


def _difference(actual: Tensor, reference: Tensor) -> Tensor:
    """Absolute error in float64; 0 where the reference is not finite: see `_same_kind`."""
    difference = (actual.double() - reference.double()).abs()
    return torch.where(reference.isfinite(), difference, 0)


def _worst_index(actual: Tensor, reference: Tensor) -> tuple[int, ...]:
    if reference.numel() == 0:
        return ()
    flat = _difference(actual, reference).argmax()
    return tuple(int(i) for i in torch.unravel_index(flat, reference.shape))


def _mismatch(actual: Tensor, eager: Tensor, reference: Tensor) -> str | None:
    """What makes the comparison fail before any error is measured, if anything does."""
    if eager.shape != reference.shape:
        raise ValueError(
            f"expected eager to have the reference's shape {tuple(reference.shape)},"
            f" got {tuple(eager.shape)}"
        )
    if actual.shape != reference.shape:
        return f"shape {tuple(actual.shape)}, expected {tuple(reference.shape)}"
    if actual.dtype != eager.dtype:
        return f"dtype {actual.dtype}, expected {eager.dtype}"
    wrong = ~_same_kind(actual, reference)
    if not bool(wrong.any()):
        return None
    index = tuple(int(i) for i in wrong.nonzero()[0])
    return (
        f"{actual[index].item()} at {list(index)} where the reference is"
        f" {reference[index].item():.6g} ({int(wrong.sum())} such elements)"
    )
