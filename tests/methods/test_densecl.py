"""DenseCL beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import check_steps, follow, image_batches, unit
from torch import Tensor, nn

from sslkern.methods import DenseCL
from sslkern.methods.densecl import match

QUEUE, BATCH, CHANNELS = 14, 6, 7  # the third batch goes round the end of the queue


def make(**options: Any) -> DenseCL:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, CHANNELS, 2, stride=2), nn.BatchNorm2d(CHANNELS))
    settings = {"projection_dim": 5, "queue_size": QUEUE, "momentum": 0.9, "dense_weight": 0.3}
    return DenseCL(encoder, CHANNELS, **{**settings, **options}).double()


def two_layers(head: nn.Sequential, x: Tensor) -> Tensor:
    first, _, last = head
    return (x @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias


def contrast(query: Tensor, key: Tensor, negatives: Tensor) -> Tensor:
    logits = torch.cat([(query @ key)[None], negatives @ query]) / 0.2
    return logits.logsumexp(0) - logits[0]


def remember(queue: nn.Module, rows: Tensor) -> None:
    for row in rows:
        queue.rows[int(queue.position)] = row
        queue.position.copy_((queue.position + 1) % QUEUE)


def plain_loss(m: DenseCL, view_query: Tensor, view_key: Tensor) -> Tensor:
    maps = m.encoder(view_query)
    encoder, head, dense_head = m.teacher.module
    with torch.no_grad():
        key_maps = encoder(view_key)
    whole, dense, keys, dense_keys = [], [], [], []
    bank, dense_bank = unit(m.queue.rows), unit(m.dense_queue.rows)
    for f, f_key in zip(maps, key_maps, strict=True):
        places = [(y, x) for y in range(2) for x in range(2)]
        query = unit(two_layers(m.head, f.mean((1, 2))))
        with torch.no_grad():
            key = unit(two_layers(head, f_key.mean((1, 2))))
            cell_keys = [two_layers(dense_head, f_key[:, y, x]) for y, x in places]
        whole.append(contrast(query, key, bank))
        for y, x in places:
            cosines = [unit(f[:, y, x]) @ unit(f_key[:, v, u]) for v, u in places]
            best = int(torch.stack(cosines).argmax())
            cell_query = unit(two_layers(m.dense_head, f[:, y, x]))
            dense.append(contrast(cell_query, unit(cell_keys[best]), dense_bank))
        keys.append(key)
        dense_keys.append(unit(torch.stack(cell_keys).mean(0)))
    remember(m.queue, torch.stack(keys))
    remember(m.dense_queue, torch.stack(dense_keys))
    return 0.7 * torch.stack(whole).mean() + 0.3 * torch.stack(dense).mean()


def plain_update(m: DenseCL, progress: float) -> None:
    follow(m.teacher.module, nn.ModuleList([m.encoder, m.head, m.dense_head]), 0.9)


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, image_batches(batch=BATCH), plain_update)


def test_cells_of_a_shuffled_map_find_themselves() -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(3, 8, 5, generator=generator)
    order = torch.stack([torch.randperm(8, generator=generator) for _ in range(3)])
    shuffled = 4 * rows.gather(1, order[..., None].expand(-1, -1, 5))
    torch.testing.assert_close(
        match(rows, shuffled, order[..., None])[..., 0].sort(1).values, torch.arange(8).expand(3, 8)
    )
    assert torch.equal(match(rows, shuffled, shuffled), 4 * rows)


@pytest.mark.parametrize("dense_weight", [0.0, 0.5, 1.0])
def test_equal_embeddings_leave_the_log_of_the_number_of_columns(dense_weight: float) -> None:
    model = make(dense_weight=dense_weight)
    for module in (*model.head, *model.dense_head, *model.teacher.module[1:].modules()):
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.weight)
            nn.init.ones_(module.bias)
    for queue in (model.queue, model.dense_queue):
        queue.rows.fill_(1.0)
    loss = model(*image_batches()[0])
    torch.testing.assert_close(loss.item(), math.log(QUEUE + 1), rtol=1e-12, atol=0)


def test_signals_have_cells_too() -> None:
    model = DenseCL(nn.Conv1d(1, 4, 3), 4, queue_size=5)
    model(*torch.rand(2, 3, 1, 9)).backward()
    assert all(p.grad is not None for p in model.trainable())
    assert all(p.grad is None for p in model.teacher.parameters())


def test_evaluation_remembers_nothing() -> None:
    model = make().eval()
    before = model.queue.rows.clone(), model.dense_queue.rows.clone()
    model(*image_batches()[0])
    assert torch.equal(model.queue.rows, before[0])
    assert torch.equal(model.dense_queue.rows, before[1])
    assert int(model.queue.position) == int(model.dense_queue.position) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_size": 0}, "expected size to be positive, got 0"),
        ({"hidden_dim": 0}, "DenseCL: expected hidden_dim to be positive, got 0"),
        ({"momentum": 1.5}, r"expected momentum to be from 0 to 1, got 1\.5"),
        ({"temperature": 0.0}, "DenseCL: expected temperature to be positive"),
        ({"dense_weight": 1.5}, r"DenseCL: expected dense_weight to be from 0 to 1, got 1\.5"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_inputs_that_do_not_fit_are_refused() -> None:
    view = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"DenseCL: .* at least 2 samples, which batch norm"):
        make()(view, view)
    flat = DenseCL(nn.Flatten(), 16, queue_size=5)
    with pytest.raises(ValueError, match=r"returns maps \(2, 16, ...\), got \(2, 16\)"):
        flat(*torch.rand(2, 2, 1, 4, 4))
