"""MSN beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import Batch, check_steps, unit
from torch import Tensor, nn

from sslkern.methods import MSN
from sslkern.methods.parts.patches import patchify

KEPT = 3  # of 4 patches


def make(**options: Any) -> MSN:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    settings = {"hidden_dim": 8, "projection_dim": 5, "prototypes": 7, "mask_ratio": 0.25}
    settings |= {"patch_size": 2, "momentum": 0.9, "entropy_weight": 1.5, **options}
    return MSN(encoder, (1, 4, 4), 8, **settings).double()


def batches() -> list[Batch]:
    """A whole view, an anchor of its size, a smaller one of 2 x 4."""
    generator = torch.Generator().manual_seed(1)
    views = torch.rand(3, 3, 6, 1, 4, 4, dtype=torch.float64, generator=generator)
    return [(a, b, c[:, :, :2]) for a, b, c in views]


def tokens(m: MSN, embed: nn.Module, images: Tensor) -> Tensor:
    """Of all patches with their positions, without [CLS]."""
    patches = embed.projection(patchify(images, 2))
    if images.shape[2] == 4:
        return patches + m.embed.positions
    # One row of patches in the middle of two: the angle is half a patch.
    rows = [[math.sin(0.5), math.sin(0.005), math.cos(0.5), math.cos(0.005)]] * 2
    columns = [[0, 0, 1, 1], [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]]
    return patches + torch.cat([torch.tensor(x, dtype=torch.float64) for x in (rows, columns)], 1)


def with_cls(embed: nn.Module, patches: Tensor) -> Tensor:
    return torch.cat([embed.cls.expand(len(patches), 1, -1), patches], 1)


def plain_loss(m: MSN, whole: Tensor, anchor: Tensor, small: Tensor) -> Tensor:
    order = torch.rand(6, 4).argsort(1)
    patches = tokens(m, m.embed, anchor)
    kept = torch.stack([patches[i, sorted(order[i, :KEPT].tolist())] for i in range(6)])
    cls = [m.encoder(with_cls(m.embed, x))[:, 0] for x in (kept, tokens(m, m.embed, small))]
    prototypes = unit(m.prototypes.weight)
    p = (unit(m.head(torch.cat(cls))) @ prototypes.T / 0.1).softmax(1)
    with torch.no_grad():
        embed, encoder, _, head = m.teacher.module
        z = unit(head(encoder(with_cls(embed, tokens(m, embed, whole)))[:, 0]))
        q = (z @ prototypes.T / 0.1).softmax(1) ** 4
        q = q / q.sum(1, keepdim=True)
        for _ in range(m.iterations):
            q = q / q.sum(0)
            q = q / q.sum(1, keepdim=True)
    mean = p.mean(0)
    agreement = -(torch.cat([q, q]) * p.log()).sum(1).mean()
    return agreement + 1.5 * (math.log(7) + (mean * mean.log()).sum())


def plain_update(m: MSN, progress: float) -> None:
    momentum = 1 - (1 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
    student = [p for part in (m.embed, m.encoder, m.head) for p in part.parameters()]
    for to, value in zip(m.teacher.module.parameters(), student, strict=True):
        to.mul_(momentum).add_(value, alpha=1 - momentum)


@pytest.mark.parametrize("iterations", [0, 3])
def test_steps_equal_the_formula(iterations: int) -> None:
    check_steps(make(iterations=iterations), plain_loss, batches(), plain_update)


def test_equal_prototypes_cost_the_logarithm_of_their_number() -> None:
    """Targets and predictions are uniform then, and the mean prediction costs nothing."""
    model = make()
    model.prototypes.weight.data[:] = model.prototypes.weight.data[0].clone()
    torch.testing.assert_close(model(*batches()[0]), torch.tensor(7.0).double().log())


def test_no_gradient_reaches_the_teacher() -> None:
    model = make()
    model(*batches()[0]).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.trainable())


def test_prototypes_take_no_gradient_from_targets() -> None:
    """Where no prediction depends on them, nothing is left."""
    model = make(entropy_weight=0.0)
    for name in ("weight", "bias"):
        nn.init.zeros_(getattr(model.head[-1], name))  # projections of norm zero
    model(*batches()[0]).backward()
    assert not model.prototypes.weight.grad.any()


def test_evaluation_changes_no_state() -> None:
    model = make().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(*batches()[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_autocast_trains() -> None:
    model = make().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(*(view.float() for view in batches()[0]))
    loss.backward()
    assert bool(loss.isfinite())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": 1.0}, "MSN: expected mask_ratio to be from 0 to below 1, got 1.0"),
        ({"temperature": 0.0}, "MSN: expected temperature to be positive"),
        ({"sharpening": -1.0}, "MSN: expected sharpening to be positive"),
        ({"entropy_weight": -1.0}, "MSN: expected entropy_weight to be finite and not negative"),
        ({"iterations": -1}, "MSN: expected iterations to be at least 0, got -1"),
        ({"momentum": 2.0}, "expected momentum to be from 0 to 1, got 2.0"),
        ({"prototypes": 0}, "expected count to be positive, got 0"),
        ({"patch_size": 3}, "expected images to be of shape .* multiples of 3"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_views_that_do_not_fit_are_refused() -> None:
    model, view = make(), torch.rand(6, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="MSN: expected crops to be at least 2, got 1"):
        model(view)
    with pytest.raises(ValueError, match="expected crop 2 to be of the batch size of crop 1, 6"):
        model(view, view[:5])
    with pytest.raises(ValueError, match=r"expected crop 1 to be of shape \(B, 1, 4, 4\), got"):
        model(view[:, :, :2], view)
    with pytest.raises(ValueError, match="of at least 2 samples, which batch normalization needs"):
        model(view[:1], view[:1])
    with pytest.raises(ValueError, match=r"expected encoder .* \(6, 4, 8\), got \(6, 32\)"):
        MSN(nn.Flatten(), (1, 4, 4), 8, patch_size=2).double()(view, view)
