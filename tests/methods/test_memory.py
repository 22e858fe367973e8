"""The memory against the formula in plain numbers."""

from __future__ import annotations

import math

import pytest
import torch

from sslkern.methods.parts.memory import IndexMemory


def unit(row: list[float]) -> list[float]:
    norm = math.hypot(*row)
    return [x / norm for x in row] if norm >= 1e-12 else [0.0] * len(row)


def plain_update(
    memory: list[list[float]], index: list[int], rows: list[list[float]], momentum: float
) -> list[list[float]]:
    """Sample by sample; a later embedding of a sample replaces an earlier one."""
    result = list(memory)
    for i, row in zip(index, rows, strict=True):
        pairs = zip(memory[i], unit(row), strict=True)
        result[i] = unit([momentum * m + (1 - momentum) * z for m, z in pairs])
    return result


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("index", [[3], [0, 1, 2, 3, 4], [4, 4, 4], [2, 0, 2, 1, 0, 2]])
def test_equals_the_formula(momentum: float, index: list[int]) -> None:
    memory = IndexMemory(5, 3, momentum, torch.Generator().manual_seed(1)).double()
    generator = torch.Generator().manual_seed(2)
    expected = memory.rows.tolist()
    for _ in range(3):
        rows = 10 * torch.randn(len(index), 3, generator=generator, dtype=torch.float64)
        expected = plain_update(expected, index, rows.tolist(), momentum)
        memory.update(torch.tensor(index), rows)
        torch.testing.assert_close(
            memory.rows, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14
        )


def test_the_last_of_many_repetitions_wins() -> None:
    count = 5000
    memory = IndexMemory(3, 2, momentum=0.0)
    angle = torch.linspace(0, 3, count)
    index = torch.arange(count) % 3
    memory.update(index, torch.stack([angle.cos(), angle.sin()], 1))
    last = torch.tensor([max(i for i in range(count) if i % 3 == s) for s in range(3)])
    expected = torch.stack([angle[last].cos(), angle[last].sin()], 1)
    torch.testing.assert_close(memory.rows, expected)


def test_uniform_rows_start_within_the_bounds_of_the_paper() -> None:
    rows = IndexMemory(4000, 12, generator=torch.Generator().manual_seed(0)).rows.double()
    bound = 1 / math.sqrt(12 / 3)
    assert float(rows.abs().max()) <= bound
    assert float(rows.max()) > 0.99 * bound
    assert float(rows.min()) < -0.99 * bound
    assert float(rows.mean()) == pytest.approx(0, abs=0.01)
    assert float(rows.square().sum(1).mean()) == pytest.approx(1, abs=0.02)


def test_rows_on_the_sphere_have_unit_norm() -> None:
    rows = IndexMemory(50, 8, init="sphere", generator=torch.Generator().manual_seed(0)).rows
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(50))
    assert float(rows.mean(0).norm()) < 0.5


@pytest.mark.parametrize("init", ["uniform", "sphere"])
def test_a_generator_repeats_the_start(init: str) -> None:
    first, second = (
        IndexMemory(4, 3, generator=torch.Generator().manual_seed(5), init=init) for _ in range(2)
    )
    assert torch.equal(first.rows, second.rows)


def test_forward_is_a_copy_for_indices_of_any_shape() -> None:
    memory = IndexMemory(6, 2)
    index = torch.tensor([[0, 5, 5], [2, 1, 0]])
    rows = memory(index)
    table = memory.rows.tolist()
    assert rows.tolist() == [[table[i] for i in line] for line in index.tolist()]
    memory.update(torch.tensor([5]), torch.ones(1, 2))
    assert rows[0, 1].tolist() == table[5]


def test_other_rows_keep_every_bit() -> None:
    memory = IndexMemory(6, 4)
    before = memory.rows.clone()
    memory.update(torch.tensor([2, 4]), torch.randn(2, 4))
    kept = [0, 1, 3, 5]
    assert torch.equal(memory.rows[kept], before[kept])
    assert not torch.equal(memory.rows[[2, 4]], before[[2, 4]])


def test_zero_rows_stay_finite() -> None:
    memory = IndexMemory(2, 3, momentum=0.0)
    memory.update(torch.tensor([1]), torch.zeros(1, 3))
    assert memory.rows[1].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_of_any_dtype_leave_no_gradient(dtype: torch.dtype) -> None:
    memory = IndexMemory(2, 2, momentum=0.0)
    memory.update(torch.tensor([0]), torch.tensor([[300.0, 400.0]], dtype=dtype).requires_grad_())
    assert memory.rows.dtype == torch.float32
    assert not memory.rows.requires_grad
    torch.testing.assert_close(memory.rows[0], torch.tensor([0.6, 0.8]))


def test_half_memories_are_updated_in_full_precision() -> None:
    memory = IndexMemory(2, 2, momentum=0.0).to(torch.bfloat16)
    memory.update(torch.tensor([0]), torch.tensor([[3.0, 4.0]]))
    assert memory.rows.dtype == torch.bfloat16
    assert torch.equal(memory.rows[0], torch.tensor([0.6, 0.8]).to(torch.bfloat16))


def test_state_is_saved_and_restored() -> None:
    memory, restored = IndexMemory(4, 3), IndexMemory(4, 3)
    memory.update(torch.tensor([1]), torch.randn(1, 3))
    restored.load_state_dict(memory.state_dict())
    assert torch.equal(memory.rows, restored.rows)


@pytest.mark.parametrize(("size", "dim"), [(0, 2), (-1, 2), (2, 0)])
def test_sizes_must_be_positive(size: int, dim: int) -> None:
    with pytest.raises(ValueError, match=r"sslkern::IndexMemory: expected (size|dim) to be posit"):
        IndexMemory(size, dim)


def test_settings_are_checked() -> None:
    with pytest.raises(TypeError, match="expected size to be an integer, got float"):
        IndexMemory(2.0, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected momentum to be from 0 to 1, got 1\.5"):
        IndexMemory(2, 2, momentum=1.5)
    with pytest.raises(ValueError, match="expected init to be 'uniform' or 'sphere', got 'ball'"):
        IndexMemory(2, 2, init="ball")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [-1, 4])
def test_indices_out_of_range_are_refused(bad: int) -> None:
    memory = IndexMemory(4, 2)
    message = rf"expected index to be of values in \[0, 4\), got {bad}"
    with pytest.raises(ValueError, match=message):
        memory(torch.tensor([0, bad]))
    with pytest.raises(ValueError, match=message):
        memory.update(torch.tensor([0, bad]), torch.ones(2, 2))


def test_indices_are_int64_on_the_device_of_the_memory() -> None:
    memory = IndexMemory(4, 2)
    with pytest.raises(TypeError, match="expected index to be a tensor, got list"):
        memory([0])
    with pytest.raises(TypeError, match=r"expected index to be of dtype torch.int64, got torch.in"):
        memory(torch.tensor([0], dtype=torch.int32))
    with pytest.raises(ValueError, match="expected index to be on cpu, got meta"):
        memory(torch.zeros(1, dtype=torch.int64, device="meta"))


@pytest.mark.parametrize("shape", [(3,), (3, 4), (1, 3, 2), (0, 2)])
def test_rows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected rows to be of shape \(B, "):
        IndexMemory(5, 2).update(torch.zeros(3, dtype=torch.int64), torch.zeros(shape))


def test_rows_are_floating_and_as_many_as_indices() -> None:
    memory, index = IndexMemory(5, 2), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"expected index to be of shape \(2,\), got shape \(3,\)"):
        memory.update(index, torch.zeros(2, 2))
    with pytest.raises(TypeError, match=r"expected rows to be of dtype .*, got torch.int64"):
        memory.update(index, torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected rows to be on the device of the memory, cpu"):
        memory.update(index, torch.zeros(3, 2, device="meta"))
