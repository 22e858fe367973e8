"""GAN beside its formula."""

from __future__ import annotations

import math

import pytest
import torch
from steps import check_steps, image_batches
from torch import Tensor, nn

from sslkern.methods import GAN

LATENT = 3


def make(generator: nn.Module | None = None, features: int = 6) -> GAN:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.LeakyReLU())
    layers = [nn.Linear(LATENT, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 16)]
    made = nn.Sequential(*layers, nn.Unflatten(1, (1, 4, 4)))
    return GAN(encoder, features, generator or made, latent_dim=LATENT).double()


class Reversed(torch.autograd.Function):
    """The samples as they are; to the generator the gradient of its own loss instead."""

    @staticmethod
    def forward(ctx, samples: Tensor, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(gradient)
        return samples.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return ctx.saved_tensors[0], None


def share(m: GAN, images: Tensor) -> Tensor:
    return 1 / (1 + (-m.head(m.encoder(images))).exp())


def plain_loss(m: GAN, images: Tensor) -> Tensor:
    samples = m.generator(torch.randn(len(images), LATENT, dtype=torch.float64))
    free = samples.detach().requires_grad_()
    fooled = -share(m, free).log().mean()
    (gradient,) = torch.autograd.grad(fooled, free)
    made = share(m, Reversed.apply(samples, gradient))
    of_discriminator = -share(m, images).log().mean() - (1 - made).log().mean()
    return of_discriminator + fooled.detach()


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, image_batches(views=1))


def test_even_odds_cost_three_bits() -> None:
    model = make()
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    loss = model(*image_batches(views=1)[0]).item()
    assert loss == pytest.approx(3 * math.log(2), rel=1e-12)


def test_each_players_loss_reaches_that_player_only() -> None:
    """The gradients of one pass are those of two losses, each by itself."""
    model = make()
    images = image_batches(views=1)[0][0]
    torch.manual_seed(0)
    model(images).backward()
    torch.manual_seed(0)
    samples = model.generator(torch.randn(len(images), LATENT, dtype=torch.float64))
    parameters = list(model.generator.parameters())
    grads = torch.autograd.grad(-share(model, samples).log().mean(), parameters)
    for parameter, grad in zip(parameters, grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-9, atol=1e-12)
    parameters = [*model.encoder.parameters(), *model.head.parameters()]
    cost = -share(model, images).log().mean() - (1 - share(model, samples.detach())).log().mean()
    for parameter, grad in zip(parameters, torch.autograd.grad(cost, parameters), strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-9, atol=1e-12)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="GAN: expected latent_dim to be positive, got 0"):
        GAN(nn.Flatten(), 16, nn.Identity(), latent_dim=0)
    with pytest.raises(ValueError, match="GAN: expected count to be positive"):
        make().sample(0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    images = image_batches(views=1)[0][0]
    with pytest.raises(ValueError, match=r"expected generator .* \(6, 1, 4, 4\), got \(6, 3\)"):
        make(nn.Identity())(images)
    with pytest.raises(ValueError, match=r"expected encoder .* \(6, 5\), got \(6, 6\)"):
        make(features=5)(images)
    with pytest.raises(ValueError, match="at least 2 samples, which batch normalization needs"):
        make()(images[:1])
