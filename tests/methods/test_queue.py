"""The queue against a plain ring buffer, and the order of a MoCo step."""

from __future__ import annotations

import pytest
import torch

import sslkern
from sslkern.methods import Queue


def batches(sizes: list[int], dim: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, dim, generator=generator) for size in sizes]


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("sizes", [[1, 1, 1, 1, 1], [3, 3, 3, 3], [7, 2], [20, 1], [0, 5, 8, 3]])
def test_equals_a_plain_ring_buffer(size: int, sizes: list[int]) -> None:
    queue = Queue(size, 3)
    ring, place = queue.rows.tolist(), 0
    for batch in batches(sizes, 3):
        queue.enqueue(batch)
        for row in batch.tolist():
            ring[place % size] = row
            place += 1
        assert queue.rows.tolist() == ring
        assert int(queue.position) == place % size


def test_starts_with_random_unit_rows() -> None:
    queue = Queue(50, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(50))
    assert not torch.equal(queue.rows[0], queue.rows[1])


def test_state_is_saved_and_restored() -> None:
    queue, restored = Queue(5, 2), Queue(5, 2)
    queue.enqueue(torch.randn(3, 2))
    restored.load_state_dict(queue.state_dict())
    for q in (queue, restored):
        q.enqueue(torch.ones(4, 2))
    assert torch.equal(queue.rows, restored.rows)
    assert int(restored.position) == 2


def test_half_rows_are_cast_and_gradients_are_not_kept() -> None:
    queue = Queue(3, 2)
    queue.enqueue(torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True))
    assert queue.rows.dtype == torch.float32
    assert not queue.rows.requires_grad


def test_enqueue_between_loss_and_backward_changes_nothing() -> None:
    queue = Queue(6, 4)
    query, key = batches([5, 5], 4)
    query.requires_grad_()
    expected = sslkern.info_nce_loss(query, key, queue.rows.clone())
    (gradient,) = torch.autograd.grad(expected, query)
    loss = sslkern.info_nce_loss(query, key, queue.rows)
    queue.enqueue(key)
    loss.backward()
    assert torch.equal(query.grad, gradient)


@pytest.mark.parametrize(("size", "dim"), [(0, 2), (-1, 2), (2, 0)])
def test_sizes_must_be_positive(size: int, dim: int) -> None:
    with pytest.raises(ValueError, match=r"sslkern::Queue: expected (size|dim) to be positive"):
        Queue(size, dim)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (1, 3, 2)])
def test_rows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected rows to be of shape \(B, 2\), got shape"):
        Queue(5, 2).enqueue(torch.zeros(shape))
