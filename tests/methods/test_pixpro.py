"""PixPro beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import check_steps, follow, image_batches, unit
from torch import Tensor, nn

from sslkern.methods import PixPro
from sslkern.methods.pixpro import same_place
from sslkern.train.recipes.pixpro import random_crop

CHANNELS, ROWS, COLUMNS = 7, 2, 4


def make(**options: Any) -> PixPro:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, CHANNELS, (2, 1), stride=(2, 1)), nn.ReLU())
    settings = {"hidden_dim": 6, "projection_dim": 5, "momentum": 0.9, **options}
    return PixPro(encoder, CHANNELS, **settings).double()


def crops(batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """Overlapping boxes, some of them flipped."""
    generator = torch.Generator().manual_seed(seed)
    boxes = []
    for _ in range(2):
        first = 4 * torch.rand(batch, 2, dtype=torch.float64, generator=generator)
        size = 4 + 8 * torch.rand(batch, 2, dtype=torch.float64, generator=generator)
        boxes.append(torch.cat([first, first + size], 1))
    boxes[0][::2] = boxes[0][::2][:, [2, 1, 0, 3]]
    return boxes[0], boxes[1]


def plain_positive(a: Tensor, b: Tensor, radius: float = 0.7) -> Tensor:
    """Of one image: (S, S)."""
    cells, diagonals = [], []
    for left, top, right, bottom in (a.tolist(), b.tolist()):
        w, h = (right - left) / COLUMNS, (bottom - top) / ROWS
        cells.append(
            [
                (left + (j + 0.5) * w, top + (i + 0.5) * h)
                for i in range(ROWS)
                for j in range(COLUMNS)
            ]
        )
        diagonals.append(math.hypot(w, h))
    near = [[math.dist(p, q) < radius * max(diagonals) for q in cells[1]] for p in cells[0]]
    return torch.tensor(near)


def project(encoder: nn.Module, head: nn.Module, view: Tensor) -> Tensor:
    maps = encoder(view)
    rows = torch.stack([maps[:, :, i, j] for i in range(ROWS) for j in range(COLUMNS)], 1)
    return head(rows.reshape(-1, CHANNELS)).reshape(len(view), ROWS * COLUMNS, -1)


def plain_loss(m: PixPro, view_a: Tensor, view_b: Tensor, crop_a: Tensor, crop_b: Tensor) -> Tensor:
    student = [project(m.encoder, m.head, v) for v in (view_a, view_b)]
    with torch.no_grad():
        teacher = [unit(project(*m.teacher.module, v)) for v in (view_a, view_b)]
    losses = []
    for b in range(len(view_a)):
        positive = plain_positive(crop_a[b], crop_b[b]).double()
        for one, other, weight in ((0, 1, positive), (1, 0, positive.T)):
            x = student[one][b]
            values = unit(x @ m.value.weight.T + m.value.bias)
            similarity = (unit(x) @ unit(x).T).relu() ** 2
            y = unit(torch.stack([(s[:, None] * values).sum(0) for s in similarity]))
            cosines = y @ teacher[other][b].T
            losses.append(-2 * (cosines * weight).sum() / (weight.sum() + 1e-6))
    return torch.stack(losses).sum() / len(view_a)


def plain_update(m: PixPro, progress: float) -> None:
    momentum = 1 - 0.1 * (math.cos(math.pi * progress) + 1) / 2
    follow(m.teacher.module, nn.ModuleList([m.encoder, m.head]), momentum)


def test_steps_equal_the_formula() -> None:
    batches = [(*views, *crops(6, i)) for i, views in enumerate(image_batches())]
    positive = torch.stack([plain_positive(a, b) for a, b in zip(*batches[0][2:], strict=True)])
    assert 0.05 < positive.double().mean() < 0.95
    check_steps(make(), plain_loss, batches, plain_update)


def test_the_same_crop_pairs_each_cell_with_itself() -> None:
    crop = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    assert torch.equal(same_place(crop, crop, (4, 4), 0.7)[0], torch.eye(16, dtype=torch.bool))


def test_a_flipped_crop_pairs_mirrored_cells() -> None:
    crop = torch.tensor([[0.0, 0.0, 8.0, 1.0]])
    positive = same_place(crop, crop[:, [2, 1, 0, 3]], (1, 4), 0.4)[0]
    assert torch.equal(positive, torch.eye(4, dtype=torch.bool).flip(1))


def test_crops_that_do_not_meet_have_no_loss() -> None:
    views = image_batches()[0]
    near = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64).expand(6, 4)
    assert make()(*views, near, near + 9).item() == 0


def test_equal_cells_reach_the_least_loss() -> None:
    model = make().eval()
    for linear in (model.value, model.head[-1], model.teacher.module[1][-1]):
        nn.init.zeros_(linear.weight)
        nn.init.ones_(linear.bias)
    crop = crops(6, 0)[0]
    loss = model(*image_batches()[0], crop, crop)
    # Each cell has at least itself as a positive: at least 8 positives over 8 + 1e-6.
    assert loss.item() == pytest.approx(-4, abs=4 * 1e-6)


def test_teacher_gets_no_gradient() -> None:
    model = make()
    model(*image_batches()[0], *crops(6, 0)).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.trainable())


def test_the_recipe_tells_where_its_crops_are() -> None:
    """A picture of its own x, and one of its own y: the means are the centers of the crops."""
    middles = (torch.arange(64) + 0.5) / 64
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    images = torch.stack([x, y])[None].expand(20, 2, 64, 64)
    views, crop = random_crop(images, torch.Generator().manual_seed(0))
    assert torch.all(crop[:, :2] >= 0)
    assert torch.all(crop[:, 2:] <= 1)
    centers = (crop[:, :2] + crop[:, 2:]) / 2
    torch.testing.assert_close(views.mean((2, 3)), centers, rtol=0, atol=0.02)
    left = crop[:, 0] + (crop[:, 2] - crop[:, 0]) / 8
    torch.testing.assert_close(views[:, 0, :, :16].mean((1, 2)), left, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dim": 0}, "PixPro: expected hidden_dim to be positive, got 0"),
        ({"momentum": 1.5}, r"expected momentum to be from 0 to 1, got 1\.5"),
        ({"radius": -1.0}, "PixPro: expected radius to be finite and not negative"),
        ({"sharpness": 0.0}, "PixPro: expected sharpness to be positive"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_inputs_that_do_not_fit_are_refused() -> None:
    views = image_batches()[0]
    crop = crops(6, 0)[0]
    with pytest.raises(ValueError, match=r"PixPro: expected crop_b to be floating, .* \(6, 4\)"):
        make()(*views, crop, crop[:5])
    with pytest.raises(ValueError, match=r"crop_a .* got torch.int64"):
        make()(*views, crop.long(), crop)
    with pytest.raises(ValueError, match=r"at least 2 samples, which batch normalization"):
        make()(views[0][:1], views[1][:1], crop[:1], crop[:1])
    flat = PixPro(nn.Flatten(2), 1, hidden_dim=6).double()
    with pytest.raises(ValueError, match=r"returns maps \(B, C, H, W\)"):
        flat(*views, crop, crop)
