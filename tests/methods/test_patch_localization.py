"""Patch localization beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import check_steps
from torch import Tensor, nn

from sslkern.methods import PatchLocalization

PLACES = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)]


def make(encoder: nn.Module | None = None, features: int = 6, **options: Any) -> PatchLocalization:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU()]
    settings = {"patch_size": 2, "gap": 1, "jitter": 1, **options}
    return PatchLocalization(encoder or nn.Sequential(*layers), features, **settings).double()


def batch(seed: int = 0, size: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, 11, 13, dtype=torch.float64, generator=generator)


def cut(image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return image[:, int(row) : int(row) + 2, int(column) : int(column) + 2]


def plain_loss(m: PatchLocalization, images: Tensor) -> Tensor:
    place = torch.randint(8, (len(images),))
    draw = torch.rand(2, len(images))
    shift = torch.randint(3, (2, 2, len(images)))
    patches = []
    for i, image in enumerate(images):
        # The grid takes 10 of the pixels: 2 places for it along one axis, 4 along the other.
        at = torch.stack([(draw[0, i] * 2).long(), (draw[1, i] * 4).long()])
        step = torch.tensor(PLACES[int(place[i])])
        patches.append(cut(image, *(at + shift[0, :, i] + 3)))
        patches.append(cut(image, *(at + shift[1, :, i] + 3 * step)))
    features = m.encoder(torch.stack(patches)).view(len(images), -1)
    scores = m.head[2](m.head[1](m.head[0](features)))
    return -scores.log_softmax(1)[range(len(images)), place].mean()


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, [(batch(i),) for i in range(3)])


def test_second_patch_lies_where_the_answer_says() -> None:
    model = make(jitter=0)
    rows, columns = torch.meshgrid(torch.arange(11.0), torch.arange(13.0), indexing="ij")
    images = torch.stack([rows, columns, rows]).expand(200, 3, 11, 13)
    torch.manual_seed(0)
    pairs, answers = model.problems(images)
    moved = (pairs[:, 1, :2, 0, 0] - pairs[:, 0, :2, 0, 0]) / 3
    assert set(answers.tolist()) == set(range(8))
    for (row, column), answer in zip(moved.tolist(), answers.tolist(), strict=True):
        assert (row + 1, column + 1) == PLACES[answer]


def test_jitter_moves_each_patch_by_itself() -> None:
    model = make(jitter=1)
    ramp = torch.arange(13.0).expand(300, 3, 11, 13)
    torch.manual_seed(0)
    pairs, answers = model.problems(ramp)
    moved = pairs[:, 1, 0, 0, 0] - pairs[:, 0, 0, 0, 0]
    grid = torch.tensor([3.0 * (column - 1) for _, column in PLACES])[answers]
    assert set((moved - grid).tolist()) == {-2.0, -1.0, 0.0, 1.0, 2.0}


def test_dropped_colors_are_weak_noise() -> None:
    model = make(drop_colors=True)
    torch.manual_seed(0)
    pairs, _ = model.problems(1 + batch(size=200))
    spread = pairs.std((3, 4))
    kept = pairs.mean((3, 4)) > 0.9
    assert torch.equal(kept.sum(2), torch.ones(200, 2, dtype=torch.long))
    assert kept.any(0).all()
    assert 0 < spread[~kept].mean() < 0.02 * spread[kept].mean()


def test_equal_scores_cost_the_logarithm_of_eight() -> None:
    model = make()
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    assert model(batch()).item() == pytest.approx(math.log(8), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 0}, "PatchLocalization: expected patch_size to be positive"),
        ({"gap": -1}, "expected gap to be not negative, got -1"),
        ({"jitter": -1}, "expected jitter to be not negative, got -1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images .* sides of at least 10, got .* \(5, 3, 9, 13\)"):
        make()(batch()[:, :, :9])
    with pytest.raises(ValueError, match=r"expected encoder .* \(10, 5\), got \(10, 12\)"):
        make(nn.Flatten(), 5)(batch())
