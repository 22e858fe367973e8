"""SimCLR beside its formula."""

from __future__ import annotations

import pytest
import torch
from steps import check_steps, image_batches, small_encoder, unit
from torch import Tensor

from sslkern.methods import SimCLR


def make(temperature: float = 0.3) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(small_encoder(), 12, projection_dim=5, temperature=temperature).double()


def plain_loss(m: SimCLR, view_a: Tensor, view_b: Tensor) -> Tensor:
    z = unit(m.head(m.encoder(torch.cat([view_a, view_b]))))
    logits = (z @ z.T / m.temperature).fill_diagonal_(-torch.inf)
    n = len(view_a)
    positive = torch.cat([logits.diagonal(n), logits.diagonal(-n)])
    return (logits.logsumexp(1) - positive).mean()


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, image_batches())


def test_simclr_calls_the_loss_that_it_is_given() -> None:
    calls = []

    def loss(z_a: Tensor, z_b: Tensor, temperature: float) -> Tensor:
        calls.append((z_a.shape, z_b.shape, temperature))
        return z_a.sum()

    model = SimCLR(
        torch.nn.Identity(), 4, hidden_dim=7, projection_dim=3, temperature=0.1, loss=loss
    )
    model(torch.rand(5, 4), torch.rand(5, 4)).backward()
    assert calls == [((5, 3), (5, 3), 0.1)]


def test_shapes_that_do_not_fit_are_refused() -> None:
    model = SimCLR(torch.nn.Identity(), 4)
    with pytest.raises(ValueError, match=r"expected view 2 .* \(5, 4\), got \(6, 4\)"):
        model(torch.rand(5, 4), torch.rand(6, 4))
    with pytest.raises(ValueError, match=r"expected encoder .* \(10, 4\), got \(10, 3\)"):
        model(torch.rand(5, 3), torch.rand(5, 3))


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="SimCLR: expected temperature to be positive"):
        make(temperature=0.0)


@pytest.mark.parametrize("name", ["hidden_dim", "projection_dim"])
def test_widths_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match="expected dims to be positive, got 0"):
        SimCLR(torch.nn.Identity(), 4, **{name: 0})
