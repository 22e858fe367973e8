"""MoCo, versions 1 and 2, beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import check_steps, follow, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import MoCo

QUEUE, BATCH = 16, 7  # the third batch goes round the end of the queue, parts are not equal


def make(**options: Any) -> MoCo:
    torch.manual_seed(0)
    settings = {"projection_dim": 5, "queue_size": QUEUE, "momentum": 0.9, **options}
    return MoCo(small_encoder(), 12, **settings).double()


def plain_loss(m: MoCo, view_query: Tensor, view_key: Tensor) -> Tensor:
    query = unit(m.head(m.encoder(view_query)))
    with torch.no_grad():
        key = unit(plain_key(m, view_key))
    positive = (query * key).sum(1, keepdim=True)
    logits = torch.cat([positive, query @ unit(m.queue.rows).T], 1) / m.temperature
    for row in key:
        m.queue.rows[int(m.queue.position)] = row
        m.queue.position.copy_((m.queue.position + 1) % QUEUE)
    return nn.functional.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long))


def plain_key(m: MoCo, view: Tensor) -> Tensor:
    if m.key_parts == 1:
        return m.teacher.module(view)
    order = torch.rand(BATCH).argsort().tolist()
    keys: dict[int, Tensor] = {}
    for i in range(m.key_parts):
        longer = BATCH % m.key_parts
        first, size = i * (BATCH // m.key_parts) + min(i, longer), BATCH // m.key_parts
        part = order[first : first + size + (i < longer)]
        keys.update(zip(part, m.teacher.module(view[part]), strict=True))
    return torch.stack([keys[i] for i in range(BATCH)])


def plain_update(m: MoCo, progress: float) -> None:
    follow(m.teacher.module, nn.Sequential(m.encoder, m.head), 0.9)


@pytest.mark.parametrize("options", [{"version": 1}, {"version": 2}, {"key_parts": 3}])
def test_steps_equal_the_formula(options: dict[str, Any]) -> None:
    check_steps(make(**options), plain_loss, image_batches(batch=BATCH), plain_update)


def test_versions_differ_in_head_and_temperature() -> None:
    first, second = make(version=1), make(version=2)
    assert [type(layer) for layer in first.head] == [nn.Linear]
    assert [type(layer) for layer in second.head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert (first.temperature, second.temperature) == (0.07, 0.2)


def test_evaluation_remembers_nothing() -> None:
    model = make().eval()
    before = model.queue.rows.clone()
    model(*image_batches()[0])
    assert torch.equal(model.queue.rows, before)
    assert int(model.queue.position) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_size": 0}, "expected size to be positive, got 0"),
        ({"momentum": 1.5}, "expected momentum to be from 0 to 1, got 1.5"),
        ({"momentum": -0.1}, "expected momentum to be from 0 to 1"),
        ({"temperature": 0.0}, "expected temperature to be positive"),
        ({"key_parts": 0}, "MoCo: expected key_parts to be"),
        ({"version": 3}, r"expected version to be 1 or 2 \(version 3 is MoCoV3\), got 3"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_single_sample_is_refused_where_a_norm_needs_two() -> None:
    view = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="at least 2 samples, which batch normalization needs"):
        make()(view, view)


def test_parts_too_small_for_a_norm_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 samples for 4 parts, got 7"):
        make(key_parts=4)(*image_batches(batch=BATCH)[0])
