"""Denoising autoencoder beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import check_steps, image_batches, small_encoder
from torch import Tensor, nn

from sslkern.methods import DenoisingAutoencoder

NOISES = ["masking", "gaussian", "salt_and_pepper"]


def make(decoder: nn.Module | None = None, **options: Any) -> DenoisingAutoencoder:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(12, 16), nn.Unflatten(1, (1, 4, 4)))
    settings = {"level": 0.4, **options}
    return DenoisingAutoencoder(small_encoder(), 12, decoder or layers, **settings).double()


def plain_noise(kind: str, level: float, x: Tensor) -> Tensor:
    if kind == "gaussian":
        return x + level * torch.randn(x.shape, dtype=x.dtype)
    kept = (torch.rand(x.shape, dtype=x.dtype) >= level).to(x)
    if kind == "masking":
        return kept * x
    ones = (torch.rand(x.shape, dtype=x.dtype) > 0.5).to(x)
    return kept * x + (1 - kept) * ones


def plain_loss(m: DenoisingAutoencoder, images: Tensor) -> Tensor:
    made = m.decoder(m.encoder(plain_noise(m.corruption, m.level, images)))
    if m.loss == "squared":
        return ((made - images) ** 2).sum() / images.numel()
    shares = 1 / (1 + (-made).exp())
    return -(images * shares.log() + (1 - images) * (1 - shares).log()).sum() / images.numel()


@pytest.mark.parametrize("corruption", NOISES)
@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_steps_equal_the_formula(corruption: str, loss: str) -> None:
    check_steps(make(corruption=corruption, loss=loss), plain_loss, image_batches(views=1))


@pytest.mark.parametrize("corruption", NOISES)
def test_no_noise_leaves_the_input(corruption: str) -> None:
    images = image_batches(views=1)[0][0]
    assert torch.equal(make(corruption=corruption, level=0.0).corrupt(images), images)


def test_noise_hits_as_many_numbers_as_its_level_says() -> None:
    images = torch.full((100, 100), 0.5)
    torch.manual_seed(0)
    masked = make(corruption="masking").corrupt(images)
    assert (masked == 0).float().mean().item() == pytest.approx(0.4, abs=0.02)
    pepper = make(corruption="salt_and_pepper").corrupt(images)
    for value in (0.0, 1.0):
        assert (pepper == value).float().mean().item() == pytest.approx(0.2, abs=0.02)
    noise = make(corruption="gaussian").corrupt(images) - images
    assert noise.std().item() == pytest.approx(0.4, abs=0.02)


def test_reconstruction_of_logits_is_a_share() -> None:
    model, images = make(loss="cross_entropy").eval(), image_batches(views=1)[0][0]
    expected = 1 / (1 + (-model.decoder(model.encoder(images))).exp())
    torch.testing.assert_close(model.reconstruct(images), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruption": "blur"}, "corruption to be one of masking, gaussian, salt_and_pepper"),
        ({"loss": "hinge"}, "loss to be one of squared, cross_entropy, got 'hinge'"),
        ({"level": 1.1}, "DenoisingAutoencoder: expected level to be from 0 to 1, got 1.1"),
        ({"level": -0.1, "corruption": "gaussian"}, "level to be finite and not negative"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    images = image_batches(views=1)[0][0]
    with pytest.raises(ValueError, match=r"expected decoder .* \(6, 1, 4, 4\), got \(6, 12\)"):
        make(nn.Identity())(images)
    with pytest.raises(ValueError, match=r"expected encoder .* \(6, 5\), got \(6, 12\)"):
        DenoisingAutoencoder(small_encoder(), 5, nn.Identity())(images)
    with pytest.raises(ValueError, match="at least 2 samples, which batch normalization needs"):
        make()(images[:1])


def test_single_sample_is_refused_where_a_norm_of_the_decoder_needs_two() -> None:
    model = DenoisingAutoencoder(nn.Flatten(), 16, nn.BatchNorm1d(16)).double()
    with pytest.raises(ValueError, match="expected inputs to be of at least 2 samples, which"):
        model(torch.rand(1, 1, 4, 4, dtype=torch.float64))
