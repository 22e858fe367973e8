"""InfoMin beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import Batch, check_steps, follow, unit
from tiles import any_size_encoder, plain_tiles
from torch import Tensor, nn

from sslkern.methods import InfoMin

QUEUE = 11  # the third batch goes round the end of the queue


def make(**options: Any) -> InfoMin:
    torch.manual_seed(0)
    settings = {"projection_dim": 3, "queue_size": QUEUE, "temperature": 0.3, "momentum": 0.9}
    sizes = {"grid": 2, "tile_size": 2, "jigsaw_weight": 0.3}
    return InfoMin(any_size_encoder(), 4, **{**settings, **sizes, **options}).double()


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    views = torch.rand(3, 3, 5, 1, 6, 6, dtype=torch.float64, generator=generator)
    return [tuple(step) for step in views]


def plain_loss(m: InfoMin, view_query: Tensor, view_key: Tensor, view_jigsaw: Tensor) -> Tensor:
    query = unit(m.head(m.encoder(view_query)))
    with torch.no_grad():
        key = unit(m.teacher.module(view_key))
    losses = []
    for q in (query, unit(plain_tiles(m.tiles, m.encoder, view_jigsaw))):
        logits = torch.cat([(q * key).sum(1, keepdim=True), q @ unit(m.queue.rows).T], 1) / 0.3
        losses.append((logits.logsumexp(1) - logits[:, 0]).mean())
    for row in key:
        m.queue.rows[int(m.queue.position)] = row
        m.queue.position.copy_((m.queue.position + 1) % QUEUE)
    return 0.7 * losses[0] + 0.3 * losses[1]


def plain_update(m: InfoMin, progress: float) -> None:
    follow(m.teacher.module, nn.Sequential(m.encoder, m.head), 0.9)


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, batches(), plain_update)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_weight_decides_which_head_learns(weight: float) -> None:
    model = make(jigsaw_weight=weight)
    model(*batches()[0]).backward()
    still = model.head if weight == 1 else model.tiles
    assert all(not p.grad.any() for p in still.parameters() if p.grad is not None)
    moved = model.tiles if weight == 1 else model.head
    assert all(p.grad is not None and p.grad.any() for p in moved.parameters())


def test_teacher_knows_no_tiles() -> None:
    model = make()
    names = {name.split(".")[0] for name, _ in model.teacher.module.named_parameters()}
    assert names == {"0", "1"}


def test_evaluation_remembers_nothing() -> None:
    model = make().eval()
    before = model.queue.rows.clone()
    assert model(*batches()[0]).isfinite()
    assert torch.equal(model.queue.rows, before)
    assert int(model.queue.position) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "InfoMin: expected temperature to be positive"),
        ({"momentum": 1.5}, "expected momentum to be from 0 to 1, got 1.5"),
        ({"queue_size": 0}, "expected size to be positive, got 0"),
        ({"jigsaw_weight": 2.0}, "InfoMin: expected jigsaw_weight to be from 0 to 1"),
        ({"grid": 4}, "InfoMin: expected grid to be 2 or 3, got 4"),
        ({"tile_size": 0}, "InfoMin: expected tile_size to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_views_that_do_not_fit_are_refused() -> None:
    model = make()
    views = batches()[0]
    with pytest.raises(ValueError, match="InfoMin: expected view 3 to be of the shape of view 1"):
        model(views[0], views[1], views[2][1:])
    with pytest.raises(ValueError, match=r"InfoMin: .* at least 2 samples, which batch norm"):
        model(*(view[:1] for view in views))
    with pytest.raises(ValueError, match=r"InfoMin: expected images .* sides of at least 4"):
        model(*(view[..., :3] for view in views))
