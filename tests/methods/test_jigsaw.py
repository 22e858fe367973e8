"""Jigsaw beside its formula."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from steps import check_steps
from torch import Tensor, nn

from sslkern.methods import Jigsaw
from sslkern.methods.jigsaw import all_permutations, distant_permutations


def make(encoder: nn.Module | None = None, features: int = 6, **options: Any) -> Jigsaw:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU()]
    settings = {"tile_size": 2, "permutations": 7, "grid": 2, **options}
    return Jigsaw(encoder or nn.Sequential(*layers), features, **settings).double()


def batch(seed: int = 0, size: int = 5, side: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, side, side, dtype=torch.float64, generator=generator)


def plain_loss(m: Jigsaw, images: Tensor) -> Tensor:
    draw = torch.rand(2, 4, len(images))
    answer = torch.randint(7, (len(images),))
    tiles = []
    for i, image in enumerate(images):
        own = []
        for cell, (row, column) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
            top, left = row + int(draw[0, cell, i] * 3), column + int(draw[1, cell, i] * 3)
            tile = image[:, top : top + 2, left : left + 2]
            if m.normalize_tiles:
                tile = (tile - tile.mean()) / (tile.var(correction=0) + 1e-6).sqrt()
            own.append(tile)
        tiles += [own[j] for j in m.permutations[answer[i]].tolist()]
    features = m.encoder(torch.stack(tiles)).view(len(images), -1)
    scores = m.head[2](m.head[1](m.head[0](features)))
    return -scores.log_softmax(1)[range(len(images)), answer].mean()


@pytest.mark.parametrize("normalize", [True, False])
def test_steps_equal_the_formula(normalize: bool) -> None:
    model = make(normalize_tiles=normalize)
    check_steps(model, plain_loss, [(batch(i),) for i in range(3)])


def test_all_permutations_are_there_once() -> None:
    found = [tuple(row) for row in all_permutations(4).tolist()]
    assert sorted(found) == sorted(itertools.permutations(range(4)))


def test_each_permutation_is_the_farthest_from_those_before() -> None:
    torch.manual_seed(0)
    chosen = [tuple(row) for row in distant_permutations(4, 12).tolist()]
    assert len(set(chosen)) == 12
    for k in range(1, 12):
        distance = {
            other: sum(a != b for row in chosen[:k] for a, b in zip(row, other, strict=True))
            for other in itertools.permutations(range(4))
            if other not in chosen[:k]
        }
        assert distance[chosen[k]] == max(distance.values())


def test_first_permutations_of_nine_agree_nowhere() -> None:
    rows = distant_permutations(9, 9)
    assert all((a != b).all() for a, b in itertools.combinations(rows, 2))


def test_tiles_come_from_the_cells_that_the_permutation_names() -> None:
    model = make(grid=3, permutations=20, normalize_tiles=False)
    cell = torch.arange(9.0).view(3, 3).repeat_interleave(3, 0).repeat_interleave(3, 1)
    tiles, answers = model.problems(cell.expand(50, 1, 9, 9))
    assert torch.equal(tiles.amin((2, 3, 4)), tiles.amax((2, 3, 4)))
    assert torch.equal(tiles[:, :, 0, 0, 0].long(), model.permutations[answers])


def test_equal_scores_cost_the_logarithm_of_the_permutations() -> None:
    model = make()
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    assert model(batch()).item() == pytest.approx(math.log(7), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_size": 0}, "Jigsaw: expected tile_size to be positive"),
        ({"permutations": 0}, "Jigsaw: expected permutations to be positive"),
        ({"permutations": 25}, "expected permutations to be at most 24, got 25"),
        ({"grid": 4}, "expected grid to be 2 or 3, got 4"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images .* sides of at least 4, got .* \(5, 3, 3, 3\)"):
        make()(batch(side=3))
    with pytest.raises(ValueError, match=r"expected encoder .* \(20, 5\), got \(20, 12\)"):
        make(nn.Flatten(), 5)(batch())
