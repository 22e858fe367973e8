"""The centre against the closed form of a moving average."""

from __future__ import annotations

import pytest
import torch

from sslkern.methods.parts.center import Center


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 1.0])
def test_moves_towards_the_mean_as_a_geometric_series(momentum: float) -> None:
    center = Center(3, momentum).double()
    logits = torch.tensor([[1.0, 2.0, -4.0], [3.0, 0.0, -6.0]], dtype=torch.float64)
    for n in range(1, 6):
        center.update(logits)
        factor = 1 - momentum**n
        assert center.value[0].tolist() == pytest.approx([2 * factor, factor, -5 * factor])


def test_starts_at_zero_and_is_subtracted() -> None:
    center = Center(2, momentum=0.75)
    logits = torch.tensor([[1.0, -8.0], [3.0, 0.0]])
    assert torch.equal(center(logits), logits)
    center.update(logits)
    assert center(logits).tolist() == [[0.5, -7.0], [2.5, 1.0]]


def test_the_mean_is_over_all_leading_dimensions() -> None:
    logits = torch.arange(24.0).reshape(2, 3, 4)
    center = Center(4, momentum=0.0)
    center.update(logits)
    assert center.value.tolist() == [[10.0, 11.0, 12.0, 13.0]]
    assert center(logits).shape == (2, 3, 4)
    center.update(logits[0, 0])
    assert center.value.tolist() == [[0.0, 1.0, 2.0, 3.0]]


def test_logits_get_their_gradient_and_the_update_none() -> None:
    center = Center(2)
    logits = torch.ones(3, 2, requires_grad=True)
    center.update(logits)
    assert not center.value.requires_grad
    center(logits).sum().backward()
    assert torch.equal(logits.grad, torch.ones(3, 2))


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(dtype: torch.dtype, result: torch.dtype) -> None:
    center = Center(1, momentum=0.0)
    logits = torch.full((4, 1), 30000.0, dtype=dtype)  # their sum is no float16
    center.update(logits)
    assert center.value.dtype == torch.float32
    assert center.value.item() == float(logits[0])
    assert center(logits).dtype == result
    assert center(logits).tolist() == [[0.0]] * 4


def test_the_mean_of_halves_is_not_rounded_to_one() -> None:
    center = Center(1, momentum=0.0)
    center.update(torch.tensor([[1.0], [1.0078125]], dtype=torch.bfloat16))
    assert center.value.item() == 1.00390625


def test_state_is_saved_and_restored() -> None:
    center, restored = Center(3), Center(3)
    center.update(torch.randn(5, 3))
    restored.load_state_dict(center.state_dict())
    assert torch.equal(center.value, restored.value)
    assert center.value.abs().sum() > 0


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="sslkern::Center: expected dim to be positive, got 0"):
        Center(0)
    with pytest.raises(ValueError, match=r"expected momentum to be from 0 to 1, got -0\.1"):
        Center(2, momentum=-0.1)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 2, 1)])
def test_another_number_of_logits_is_refused(shape: tuple[int, ...]) -> None:
    center = Center(2)
    for use in (center, center.update):
        with pytest.raises(ValueError, match=r"expected logits to be of shape \(\.\.\., 2\), got"):
            use(torch.zeros(shape))


def test_logits_are_floating_and_some() -> None:
    center = Center(2)
    with pytest.raises(ValueError, match="expected logits to be at least one row"):
        center.update(torch.zeros(0, 2))
    with pytest.raises(TypeError, match="expected logits to be a floating-point tensor, got torch"):
        center(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match="expected logits to be a tensor, got list"):
        center.update([[0.0, 1.0]])
    with pytest.raises(ValueError, match="expected logits to be on the device of the centre, cpu"):
        center.update(torch.zeros(1, 2, device="meta"))
