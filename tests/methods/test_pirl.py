"""PIRL beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import Batch, check_steps, unit
from tiles import any_size_encoder, plain_tiles
from torch import Tensor

from sslkern.methods import PIRL

SAMPLES, K = 9, 5
INDEX = ([0, 3, 4, 8, 1], [3, 2, 1, 0, 7], [5, 6, 0, 2, 8])


def make(samples: int = SAMPLES, **options: Any) -> PIRL:
    torch.manual_seed(0)
    settings = {"projection_dim": 3, "negatives": K, "temperature": 0.3, "momentum": 0.6}
    sizes = {"grid": 2, "tile_size": 2, "jigsaw_weight": 0.3}
    return PIRL(any_size_encoder(), 4, samples, **{**settings, **sizes, **options}).double()


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    shape = (5, 1, 6, 6)
    return [
        (
            torch.rand(shape, dtype=torch.float64, generator=generator),
            torch.rand(shape, dtype=torch.float64, generator=generator),
            torch.tensor(index),
        )
        for index in INDEX
    ]


def plain_loss(m: PIRL, view: Tensor, view_jigsaw: Tensor, index: Tensor) -> Tensor:
    z = unit(m.head(m.encoder(view)))
    memory = m.instances.memory.rows
    z_jigsaw = unit(plain_tiles(m.tiles, m.encoder, view_jigsaw))
    losses = []
    for embedded in (z, z_jigsaw):
        scores = (embedded @ memory.clone().T / 0.3).exp()
        losses.append(plain_instance_loss(m, scores, index))
    with torch.no_grad():
        for i, row in zip(index.tolist(), z, strict=True):
            memory[i] = unit(0.6 * memory[i] + 0.4 * row)
    return 0.7 * losses[0] + 0.3 * losses[1]


def plain_instance_loss(m: PIRL, scores: Tensor, index: Tensor) -> Tensor:
    if m.instances.negatives == 0:
        return -(scores.gather(1, index[:, None])[:, 0] / scores.sum(1)).log().mean()
    drawn = torch.randint(SAMPLES, (len(scores), K))
    kept = m.instances.log_normalizer
    chosen = scores.gather(1, torch.cat([index[:, None], drawn], 1))
    if kept.isnan():
        kept.copy_((chosen.detach().mean() * SAMPLES).log())
    odds = chosen / kept.exp() / (K / SAMPLES)
    return -(odds[:, 0] / (1 + odds[:, 0])).log().mean() + (1 + odds[:, 1:]).log().sum(1).mean()


@pytest.mark.parametrize("negatives", [K, 0])
def test_steps_equal_the_formula(negatives: int) -> None:
    model = make(negatives=negatives)
    check_steps(model, plain_loss, batches())


def test_memory_has_rows_of_unit_norm_and_those_of_the_whole_views() -> None:
    model = make(momentum=0.0)
    rows = model.instances.memory.rows
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(SAMPLES, dtype=torch.float64))
    view, view_jigsaw, index = batches()[0]
    model(view, view_jigsaw, index)
    expected = unit(model.head(model.encoder(view))).detach()
    torch.testing.assert_close(rows[index], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_weight_decides_which_head_learns(weight: float) -> None:
    model = make(jigsaw_weight=weight)
    model(*batches()[0]).backward()
    still = model.head if weight == 1 else model.tiles
    assert all(not p.grad.any() for p in still.parameters() if p.grad is not None)
    moved = model.tiles if weight == 1 else model.head
    assert all(p.grad is not None and p.grad.any() for p in moved.parameters())


def test_evaluation_remembers_nothing() -> None:
    model = make().eval()
    before = model.instances.memory.rows.clone()
    assert model(*batches()[0]).isfinite()
    assert torch.equal(model.instances.memory.rows, before)
    assert bool(model.instances.log_normalizer.isnan())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "PIRL: expected temperature to be positive"),
        ({"negatives": -1}, "PIRL: expected negatives to be positive, got -1"),
        ({"momentum": 1.5}, "expected momentum to be from 0 to 1, got 1.5"),
        ({"jigsaw_weight": -0.1}, "PIRL: expected jigsaw_weight to be from 0 to 1"),
        ({"grid": 1}, "PIRL: expected grid to be 2 or 3, got 1"),
        ({"tile_size": 0}, "PIRL: expected tile_size to be positive, got 0"),
        ({"samples": 0}, "expected size to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_inputs_that_do_not_fit_are_refused() -> None:
    model = make()
    view, view_jigsaw, index = batches()[0]
    with pytest.raises(ValueError, match="PIRL: expected view 2 to be of the shape of view 1"):
        model(view, view_jigsaw[1:], index)
    with pytest.raises(ValueError, match=r"PIRL: expected index .* \(5,\), got shape \(4,\)"):
        model(view, view_jigsaw, index[1:])
    with pytest.raises(ValueError, match=r"PIRL: .* at least 2 samples, which batch norm"):
        model(view[:1], view_jigsaw[:1], index[:1])
    with pytest.raises(ValueError, match=r"PIRL: expected images .* sides of at least 4"):
        model(view[..., :3], view_jigsaw[..., :3], index)
