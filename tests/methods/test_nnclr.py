"""NNCLR beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import check_steps, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import NNCLR

QUEUE, BATCH = 14, 6  # the third batch goes round the end of the queue


def make(**options: Any) -> NNCLR:
    torch.manual_seed(0)
    settings = {"hidden_dim": 7, "projection_dim": 3, "predictor_dim": 5, "queue_size": QUEUE}
    return NNCLR(small_encoder(), 12, **{**settings, "temperature": 0.3, **options}).double()


def plain_loss(m: NNCLR, view_a: Tensor, view_b: Tensor) -> Tensor:
    z = m.head(m.encoder(torch.cat([view_a, view_b])))
    predictions = unit(m.predictor(z))
    z = unit(z.detach())
    neighbors = []
    for row in z:
        cosines = [(row @ kept / kept.norm()).item() for kept in m.queue.rows]
        neighbors.append(m.queue.rows[cosines.index(max(cosines))].clone())
    terms = []
    for i in range(2 * BATCH):
        first = BATCH if i < BATCH else 0  # of the other view's predictions
        scores = predictions[first : first + BATCH] @ unit(neighbors[i]) / m.temperature
        terms.append(scores.exp().sum().log() - scores[i % BATCH])
    for row in z[:BATCH]:
        m.queue.rows[int(m.queue.position)] = row
        m.queue.position.copy_((m.queue.position + 1) % QUEUE)
    return torch.stack(terms).mean()


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, image_batches(batch=BATCH))


def test_queue_gets_the_first_views_projections_after_the_loss() -> None:
    model = make()
    view_a, view_b = image_batches(batch=BATCH)[0]
    before = model.queue.rows.clone()
    model(view_a, view_b)
    assert torch.equal(model.queue.rows[BATCH:], before[BATCH:])
    model.train()
    z = unit(model.head(model.encoder(torch.cat([view_a, view_b]))))[:BATCH].detach()
    torch.testing.assert_close(model.queue.rows[:BATCH], z, rtol=1e-12, atol=1e-12)


def test_head_ends_in_a_norm_and_the_predictor_does_not() -> None:
    model = make()
    assert [isinstance(head[-1], nn.BatchNorm1d) for head in (model.head, model.predictor)] == [
        True,
        False,
    ]
    assert sum(isinstance(layer, nn.Linear) for layer in model.head) == 3


def test_evaluation_remembers_nothing() -> None:
    model = make().eval()
    before = model.queue.rows.clone()
    assert model(*image_batches()[0]).isfinite()
    assert torch.equal(model.queue.rows, before)
    assert int(model.queue.position) == 0


def test_one_row_in_the_queue_is_everyones_neighbor() -> None:
    """The neighbors tell no images apart then: the loss is at least the log of the batch."""
    model = make(queue_size=1).eval()
    loss = model(*image_batches(batch=BATCH)[0])
    assert loss >= torch.tensor(BATCH).log()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "NNCLR: expected temperature to be positive"),
        ({"queue_size": 0}, "expected size to be positive, got 0"),
        ({"predictor_dim": 0}, "expected dims to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    view_a, view_b = image_batches()[0]
    with pytest.raises(ValueError, match="NNCLR: expected view 2 to be of the shape of view 1"):
        make()(view_a, view_b[1:])
    model = make()
    model.encoder = nn.Flatten()
    with pytest.raises(ValueError, match=r"NNCLR: expected encoder .* \(12, 12\), got \(12, 16\)"):
        model(view_a, view_b)
