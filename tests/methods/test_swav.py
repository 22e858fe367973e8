"""SwAV beside its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steps import Batch, check_steps, image_batches, small_encoder, unit
from torch import Tensor, nn

from sslkern.methods import SwAV

QUEUE = 10


class PooledEncoder(nn.Module):
    """Images (B, 1, H, W) of any size -> (B, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = small_encoder()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(nn.functional.adaptive_avg_pool2d(images, 4))


def make(**options: Any) -> SwAV:
    torch.manual_seed(0)
    settings = {"projection_dim": 5, "prototypes": 7, "epsilon": 0.2, **options}
    return SwAV(PooledEncoder(), 12, **settings).double()


def crop_batches() -> list[Batch]:
    """Two crops of 4 x 4 and two of 3 x 3."""
    small = [tuple(x[..., :3, :3] for x in batch) for batch in image_batches()]
    return [(*a, *b) for a, b in zip(image_batches(), small, strict=True)]


def plain_sinkhorn(scores: Tensor, epsilon: float) -> Tensor:
    """Columns and rows scaled in turn, in the domain of exponentials."""
    q = (scores / epsilon).exp()
    for _ in range(3):
        q = q / q.sum(0)
        q = q / q.sum(1, keepdim=True)
    return q


def plain_loss(m: SwAV, *crops: Tensor) -> Tensor:
    large, small = m.encoder(torch.cat(crops[:2])), m.encoder(torch.cat(crops[2:]))
    z = unit(m.head(torch.cat([large, small])))
    with torch.no_grad():
        m.prototypes.weight.copy_(unit(m.prototypes.weight))
    scores = (z @ m.prototypes.weight.T).chunk(4)
    total = 0.0
    for i in range(2):
        rows = scores[i].detach()
        if m.queue_size and int(m.queued) >= QUEUE:
            rows = torch.cat([m.queues[i].rows @ m.prototypes.weight.detach().T, rows])
        target = plain_sinkhorn(rows, m.epsilon)[-6:]
        others = [scores[v] for v in range(4) if v != i]
        total += sum(-(target * (s / m.temperature).log_softmax(1)).sum(1).mean() for s in others)
    if m.queue_size:
        for queue, rows in zip(m.queues, z.detach().chunk(4), strict=False):
            for row in rows:
                queue.rows[int(queue.position)] = row
                queue.position.copy_((queue.position + 1) % QUEUE)
        m.queued.add_(6)
    return total / 6


@pytest.mark.parametrize("queue_size", [0, QUEUE])
def test_steps_equal_the_formula(queue_size: int) -> None:
    """The third batch is the first one that a full queue joins."""
    check_steps(make(queue_size=queue_size), plain_loss, crop_batches())


def test_queue_changes_the_loss_once_it_is_full() -> None:
    with_queue, without = make(queue_size=QUEUE), make()
    without.load_state_dict(with_queue.state_dict(), strict=False)
    alike = [bool(with_queue(*b) == without(*b)) for b in crop_batches()]
    assert alike == [True, True, False]


def test_first_backward_passes_leave_the_prototypes() -> None:
    model = make(freeze_iterations=2)
    frozen = []
    for batch in crop_batches():
        model.zero_grad()
        model(*batch).backward()
        frozen.append(model.prototypes.weight.grad is None)
    assert frozen == [True, True, False]


def test_equal_prototypes_cost_the_logarithm_of_their_number() -> None:
    """Assignments and predictions are uniform then."""
    model = make()
    model.prototypes.weight.data[:] = model.prototypes.weight.data[0]
    loss = model(*crop_batches()[0])
    torch.testing.assert_close(loss, torch.tensor(7.0).double().log())


def test_evaluation_remembers_nothing() -> None:
    model = make(queue_size=QUEUE).eval()
    before = [queue.rows.clone() for queue in model.queues]
    model(*crop_batches()[0])
    assert int(model.queued) == 0
    assert all(torch.equal(q.rows, b) for q, b in zip(model.queues, before, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "expected temperature to be positive"),
        ({"epsilon": -1.0}, "expected epsilon to be positive"),
        ({"iterations": -1}, "expected iterations to be at least 0, got -1"),
        ({"assigned_crops": 0}, "expected assigned_crops to be positive, got 0"),
        ({"queue_size": -3}, "expected queue_size to be positive, got -3"),
        ({"prototypes": 0}, "expected count to be positive, got 0"),
        ({"projection_dim": 0}, "expected dims to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_crops_that_do_not_fit_are_refused() -> None:
    model, view = make(), torch.rand(6, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="SwAV: expected crops to be at least 2, got 1"):
        model(view)
    with pytest.raises(ValueError, match="expected crop 3 to be of the batch size of crop 1, 6"):
        model(view, view, view[:5])
    with pytest.raises(ValueError, match="expected crop 2 to be of the shape of crop 1"):
        model(view, view[..., :3])
    with pytest.raises(ValueError, match="of at least 2 samples, which batch normalization needs"):
        model(view[:1], view[:1], view[:1, ..., :3])
    with pytest.raises(ValueError, match=r"expected encoder .* \(12, 12\), got \(12, 16\)"):
        SwAV(nn.Flatten(), 12)(view, view)
