"""VAE beside its formula."""

from __future__ import annotations

import math

import pytest
import torch
from steps import check_steps, image_batches, small_encoder
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from sslkern.methods import VAE

LATENT = 3


def make(decoder: nn.Module | None = None) -> VAE:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(LATENT, 16), nn.Unflatten(1, (1, 4, 4)))
    return VAE(small_encoder(), 12, decoder or layers, latent_dim=LATENT).double()


def plain_loss(m: VAE, images: Tensor) -> Tensor:
    code = m.to_code(m.encoder(images))
    mean, deviation = code[:, :LATENT], (code[:, LATENT:] / 2).exp()
    noise = torch.randn(mean.shape, dtype=mean.dtype)
    shares = 1 / (1 + (-m.decoder(mean + deviation * noise)).exp())
    error = -(images * shares.log() + (1 - images) * (1 - shares).log()).flatten(1).sum(1)
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return (error + kl_divergence(Normal(mean, deviation), prior).sum(1)).mean()


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, image_batches(views=1))


def test_codes_like_the_prior_and_even_odds_cost_a_bit_for_each_pixel() -> None:
    model = make()
    for parameter in (*model.to_code.parameters(), *model.decoder.parameters()):
        nn.init.zeros_(parameter)
    loss = model(*image_batches(views=1)[0]).item()
    assert loss == pytest.approx(16 * math.log(2), rel=1e-12)


def test_reconstruction_draws_nothing() -> None:
    model, images = make().eval(), image_batches(views=1)[0][0]
    mean = model.to_code(model.encoder(images))[:, :LATENT]
    made = model.reconstruct(images)
    torch.testing.assert_close(made, model.decoder(mean).sigmoid())
    assert torch.equal(made, model.reconstruct(images))


def test_samples_are_of_codes_from_the_prior() -> None:
    model = make(nn.Sequential(nn.Identity()))
    torch.manual_seed(0)
    codes = model.sample(4000).logit()
    assert codes.shape == (4000, LATENT)
    assert codes.mean().item() == pytest.approx(0, abs=0.05)
    assert codes.std().item() == pytest.approx(1, abs=0.05)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="VAE: expected latent_dim to be positive, got 0"):
        VAE(small_encoder(), 12, nn.Identity(), latent_dim=0)
    with pytest.raises(ValueError, match="VAE: expected count to be positive"):
        make().sample(0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    images = image_batches(views=1)[0][0]
    with pytest.raises(ValueError, match=r"expected decoder .* \(6, 1, 4, 4\), got \(6, 3\)"):
        make(nn.Identity())(images)
    with pytest.raises(ValueError, match=r"expected encoder .* \(6, 5\), got \(6, 12\)"):
        VAE(small_encoder(), 5, nn.Identity())(images)
    with pytest.raises(ValueError, match="at least 2 samples, which batch normalization needs"):
        make()(images[:1])


def test_single_sample_is_refused_where_a_norm_of_the_decoder_needs_two() -> None:
    model = VAE(nn.Flatten(), 16, nn.BatchNorm1d(16)).double()
    with pytest.raises(ValueError, match="expected inputs to be of at least 2 samples, which"):
        model(torch.rand(1, 1, 4, 4, dtype=torch.float64))
