"""MAE beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import check_steps
from torch import Tensor, nn

from sslkern.methods import MAE

SHAPE, PATCH, DIM = (2, 4, 6), 2, 8  # 2 x 3 patches of 8 numbers


class Mixing(nn.Module):
    """Tokens that see each other, of any number: each gets a map of their mean."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.own, self.shared = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.own(tokens) + self.shared(tokens.mean(1, keepdim=True))


def make(**options: Any) -> MAE:
    torch.manual_seed(0)
    settings = {"patch_size": PATCH, "mask_ratio": 0.6, "decoder_dim": 4, "decoder_depth": 1}
    encoder = options.pop("encoder", None) or Mixing(DIM)
    return MAE(encoder, SHAPE, DIM, **{**settings, "decoder_heads": 2, **options}).double()


def batch(seed: int = 0, size: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, *SHAPE, dtype=torch.float64, generator=generator)


def plain_loss(m: MAE, images: Tensor) -> Tensor:
    order = torch.rand(len(images), 6).argsort(1)  # the first two patches are seen
    losses = []
    for image, places in zip(images, order, strict=True):
        patches = torch.stack(
            [
                image[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].flatten()
                for r in (0, 1)
                for c in range(3)
            ]
        )
        seen = sorted(places[:2].tolist())
        tokens = [m.embed.cls]
        tokens += [m.embed.projection(patches[j]) + m.embed.positions[j] for j in seen]
        encoded = m.to_decoder(m.encoder(torch.stack(tokens)[None]))[0]
        full = [encoded[0]]
        for j in range(6):
            token = encoded[1 + seen.index(j)] if j in seen else m.mask_token
            full.append(token + m.decoder_positions[j])
        predicted = m.to_pixels(m.decoder(torch.stack(full)[None]))[0, 1:]
        for j in set(range(6)) - set(seen):
            target = patches[j]
            if m.normalize_targets:
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            losses.append((predicted[j] - target).square().mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("normalize", [True, False])
def test_steps_equal_the_formula(normalize: bool) -> None:
    batches = [(batch(i),) for i in range(3)]
    check_steps(make(normalize_targets=normalize), plain_loss, batches)


def test_loss_of_a_zero_prediction_is_the_biased_variance_of_normalized_targets() -> None:
    model = make()
    for parameter in model.to_pixels.parameters():
        nn.init.zeros_(parameter)
    # In large units, beside which the 1e-6 of the variance is nothing.
    assert model(1000 * batch()).item() == pytest.approx(7 / 8, abs=1e-9)


def test_hidden_pixels_do_not_reach_the_prediction() -> None:
    model, images = make().eval(), batch(size=2)
    keep = torch.tensor([[0, 4], [2, 3]])
    before = model.predict(images, keep)
    changed = images.clone()
    changed[0, :, :2, 2:] += 1.0  # patches 1 and 2
    torch.testing.assert_close(model.predict(changed, keep), before, rtol=0, atol=0)
    changed[0, :, :2, :2] += 1.0  # patch 0
    assert not torch.allclose(model.predict(changed, keep)[0], before[0])


@pytest.mark.parametrize("normalize", [True, False])
def test_reconstruction_of_a_perfect_prediction_is_the_image(normalize: bool) -> None:
    model, images = make(normalize_targets=normalize), batch(size=2)
    keep = model.draw(images)
    assert keep.shape == (2, 2)
    targets = model.targets(images)
    model.predict = lambda images, keep: targets  # type: ignore[method-assign]
    torch.testing.assert_close(model.reconstruct(images, keep), images)


def test_reconstruction_keeps_what_is_visible() -> None:
    model, images = make(), batch(size=2)
    whole = model.reconstruct(images, torch.tensor([[0], [5]]))
    assert torch.equal(whole[0, :, :2, :2], images[0, :, :2, :2])
    assert torch.equal(whole[1, :, 2:, 4:], images[1, :, 2:, 4:])
    assert not torch.allclose(whole[0, :, 2:, 4:], images[0, :, 2:, 4:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 0.0}, "MAE: expected mask_ratio to be between 0 and 1"),
        ({"mask_ratio": 0.9}, "some of the 6 patches stay visible, got 0.9"),
        ({"decoder_dim": 6, "decoder_heads": 4}, "decoder_dim to be a multiple of 4 heads, got 6"),
        ({"decoder_dim": 0}, "MAE: expected decoder_dim to be positive"),
        ({"decoder_depth": 0}, "MAE: expected decoder_depth to be positive"),
        ({"patch_size": 3}, "sides that are multiples of 3"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_patch_of_one_number_has_no_variance() -> None:
    with pytest.raises(ValueError, match=r"a patch to be of at least 2 numbers.*, got 1"):
        MAE(Mixing(DIM), (1, 4, 4), DIM, patch_size=1)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images to be of shape \(B, 2, 4, 6\).*\(5, 2, 4, 4\)"):
        make()(batch()[..., :4])
    with pytest.raises(ValueError, match=r"MAE: expected encoder .* \(5, 3, 8\), got \(5, 3, 7\)"):
        make(encoder=nn.Linear(DIM, 7))(batch())
