"""Context encoder beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import check_steps
from torch import Tensor, nn

from sslkern.methods import ContextEncoder

SIZE = 4


def make(**options: Any) -> ContextEncoder:
    torch.manual_seed(0)
    modules = {
        "encoder": nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.BatchNorm1d(6), nn.ReLU()),
        "decoder": nn.Sequential(nn.Linear(6, 16), nn.Unflatten(1, (1, SIZE, SIZE))),
        "discriminator": nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 1)),
    }
    modules |= {name: options.pop(name) for name in modules if name in options}
    settings = {"size": SIZE, "adversarial_weight": 0.3, **options}
    return ContextEncoder(feature_dim=6, **modules, **settings).double()


def batch(seed: int = 0, size: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, 1, 6, 8, dtype=torch.float64, generator=generator) - 0.5


def share(m: ContextEncoder, squares: Tensor) -> Tensor:
    return 1 / (1 + (-m.discriminator(squares)).exp())


def players(m: ContextEncoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """The losses of encoder with decoder, and of the discriminator, each with all gradients."""
    rows, columns, overlap = torch.arange(6), torch.arange(8), m.overlap
    inside = ((rows >= 1 + overlap) & (rows < 5 - overlap))[:, None] & (
        (columns >= 2 + overlap) & (columns < 6 - overlap)
    )
    square = images[:, :, 1:5, 2:6]
    predicted = m.decoder(m.encoder(images * ~inside))
    weights = torch.where(inside[1:5, 2:6], 1.0, 10.0)
    error = (weights * (predicted - square) ** 2).sum() / square.numel()
    fooled = -share(m, predicted).log().mean()
    told = -share(m, square).log().mean() - (1 - share(m, predicted)).log().mean()
    alpha = m.adversarial_weight
    return (1 - alpha) * error + alpha * fooled, told


def own(loss: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """A scalar of the value of the loss, whose gradients are those for these parameters only."""
    grads = torch.autograd.grad(loss, parameters, retain_graph=True)
    products = [(p - p.detach()).mul(g).sum() for p, g in zip(parameters, grads, strict=True)]
    return loss.detach() + torch.stack(products).sum()


def plain_loss(m: ContextEncoder, images: Tensor) -> Tensor:
    joint, told = players(m, images)
    makers = [*m.encoder.parameters(), *m.decoder.parameters()]
    return own(joint, makers) + own(told, list(m.discriminator.parameters()))


@pytest.mark.parametrize("overlap", [0, 1])
def test_steps_equal_the_formula(overlap: int) -> None:
    check_steps(make(overlap=overlap), plain_loss, [(batch(i),) for i in range(3)])


def test_even_odds_and_a_perfect_prediction_cost_bits_alone() -> None:
    model = make(decoder=nn.Sequential(nn.Linear(6, 16), nn.Unflatten(1, (1, 4, 4))))
    for parameter in (*model.decoder.parameters(), *model.discriminator.parameters()):
        nn.init.zeros_(parameter)
    loss = model(torch.zeros(3, 1, 6, 8, dtype=torch.float64)).item()
    assert loss == pytest.approx(2.3 * math.log(2), rel=1e-12)


@pytest.mark.parametrize("overlap", [0, 1])
def test_hidden_pixels_do_not_reach_the_prediction(overlap: int) -> None:
    model, images = make(overlap=overlap).eval(), batch()
    before = model.predict(images)
    changed = images.clone()
    changed[:, :, 1 + overlap : 5 - overlap, 2 + overlap : 6 - overlap] += 1.0
    torch.testing.assert_close(model.predict(changed), before, rtol=0, atol=0)
    changed[:, :, overlap, 1 + overlap] += 1.0  # above the upper left corner of what is hidden
    assert not torch.allclose(model.predict(changed), before)


def test_inpainting_keeps_what_surrounds_the_square() -> None:
    model, images = make().eval(), batch()
    painted = model.inpaint(images)
    changed = (painted != images).any(0)[0]
    assert changed[1:5, 2:6].all()
    assert changed.sum() == SIZE * SIZE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "ContextEncoder: expected size to be positive"),
        ({"overlap": 2}, "expected overlap to be below half of 4, got 2"),
        ({"adversarial_weight": 1.5}, "expected adversarial_weight to be from 0 to 1, got 1.5"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images .* sides of at least 4, got .* \(5, 1, 3, 8\)"):
        make()(batch()[:, :, :3])
    with pytest.raises(ValueError, match=r"expected decoder .* \(5, 1, 4, 4\), got \(5, 6\)"):
        make(decoder=nn.Identity())(batch())
    with pytest.raises(ValueError, match=r"expected discriminator .* \(5, 1\), got \(5, 16\)"):
        make(discriminator=nn.Flatten())(batch())
    with pytest.raises(ValueError, match=r"expected encoder .* \(5, 6\), got \(5, 48\)"):
        make(encoder=nn.Flatten())(batch())
    with pytest.raises(ValueError, match="at least 2 samples, which batch normalization needs"):
        make()(batch()[:1])
