"""MICLe beside its formula, and the pairs that it is given."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from steps import Batch, check_steps, small_encoder, unit
from torch import Tensor

from sslkern.methods import MICLe, draw_partners

CASES = torch.tensor([3, 0, 3, 7, 0, 3, 3])


def make(temperature: float = 0.3) -> MICLe:
    torch.manual_seed(0)
    return MICLe(small_encoder(), 12, projection_dim=5, temperature=temperature).double()


def plain_loss(m: MICLe, view_a: Tensor, view_b: Tensor) -> Tensor:
    z = unit(m.head(m.encoder(torch.cat([view_a, view_b]))))
    n, rows = len(view_a), []
    for i in range(2 * n):
        others = torch.stack([z[i] @ z[j] for j in range(2 * n) if j != i]) / m.temperature
        rows.append(others.exp().sum().log() - z[i] @ z[(i + n) % (2 * n)] / m.temperature)
    return torch.stack(rows).mean()


def case_batches() -> list[Batch]:
    """Each case once, and another of its images."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(len(CASES), 1, 4, 4, generator=generator, dtype=torch.float64)
    batches = []
    for first in ([0, 1, 3], [4, 5, 3], [1, 2, 3]):
        index = torch.tensor(first)
        batches.append((images[index], images[draw_partners(CASES, index, generator)]))
    return batches


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, case_batches())


def test_partners_are_the_other_images_of_the_case_and_all_as_likely() -> None:
    index = torch.arange(len(CASES)).repeat(3000)
    partners = draw_partners(CASES, index, torch.Generator().manual_seed(0))
    found = Counter(zip(index.tolist(), partners.tolist(), strict=True))
    expected = {(i, j) for i in range(7) for j in range(7) if i != j and CASES[i] == CASES[j]}
    assert set(found) == {*expected, (3, 3)}
    assert all(abs(found[0, j] - 1000) < 120 for j in (2, 5, 6))  # over 4 standard deviations
    assert found[1, 4] == found[3, 3] == 3000


def test_draw_is_the_generators() -> None:
    index = torch.arange(7)
    first, second = (
        draw_partners(CASES, index, torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_what_is_no_vector_is_refused() -> None:
    index = torch.arange(7)
    with pytest.raises(ValueError, match=r"MICLe: expected cases to be a vector, got .* \(7, 1\)"):
        draw_partners(CASES[:, None], index)
    with pytest.raises(ValueError, match="MICLe: expected index to be a vector"):
        draw_partners(CASES, index[0])


def test_errors_have_the_methods_name() -> None:
    with pytest.raises(ValueError, match="MICLe: expected temperature to be positive"):
        make(temperature=0.0)
    view = torch.rand(4, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="MICLe: expected view 2 to be of the shape of view 1"):
        make()(view, view[1:])
