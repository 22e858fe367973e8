"""The momentum teacher: its average, schedules, buffers and errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from sslkern.methods import Teacher


def student(value: float) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    with torch.no_grad():
        for x in (*net.parameters(), *(b for b in net.buffers() if b.is_floating_point())):
            x.fill_(value)
        net[1].num_batches_tracked.fill_(int(value))
    return net


def test_average_of_three_updates() -> None:
    teacher = Teacher(student(1.0), 0.9)
    for value in (2.0, 3.0, 4.0):
        teacher.update(student(value))
    expected = ((1.0 * 0.9 + 2.0 * 0.1) * 0.9 + 3.0 * 0.1) * 0.9 + 4.0 * 0.1
    for parameter in teacher.module.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected))
        assert not parameter.requires_grad


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 0.996), (0.25, 0.9965857864), (0.5, 0.998), (0.75, 0.9994142136), (1.0, 1.0)],
)
def test_cosine_rises_to_one_as_in_byol(progress: float, expected: float) -> None:
    teacher = Teacher(student(0.0), 0.996, "cosine")
    assert teacher.momentum_at(progress) == pytest.approx(expected, abs=1e-10)


def test_update_takes_the_momentum_of_the_progress() -> None:
    teacher = Teacher(student(0.0), 0.5, "cosine")
    teacher.update(student(1.0), progress=0.5)
    keep = 0.5 * (math.cos(math.pi / 2) + 1) / 2
    torch.testing.assert_close(teacher.module[0].weight, torch.full((3, 2), keep).double())


@pytest.mark.parametrize(
    ("buffers", "mean", "count"), [("own", 1.0, 1), ("copy", 3.0, 3), ("average", 1.5, 3)]
)
def test_buffers_are_treated_as_asked(buffers: Any, mean: float, count: int) -> None:
    teacher = Teacher(student(1.0), 0.75, buffers=buffers)
    teacher.update(student(3.0))
    norm = teacher.module[1]
    torch.testing.assert_close(norm.running_mean, torch.full((3,), mean).double())
    assert int(norm.num_batches_tracked) == count


def test_pass_has_no_gradient_and_makes_statistics_of_its_own() -> None:
    net = student(1.0)
    teacher = Teacher(net, 0.9)
    out = teacher(torch.randn(4, 2, dtype=torch.float64))
    assert not out.requires_grad
    assert int(teacher.module[1].num_batches_tracked) == 2
    assert int(net[1].num_batches_tracked) == 1


def test_state_holds_the_weights() -> None:
    teacher, restored = Teacher(student(1.0), 0.9), Teacher(student(5.0), 0.9)
    restored.load_state_dict(teacher.state_dict())
    assert torch.equal(restored.module[0].weight, teacher.module[0].weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("convert", ["before", "after"])
def test_half_weights_follow_at_a_momentum_near_one(dtype: torch.dtype, convert: str) -> None:
    """2 000 steps of a thousandth towards 2 from 1: each is less than a half can hold."""
    start, goal = (nn.utils.skip_init(nn.Linear, 3, 2) for _ in range(2))
    for net, value in ((start, 1.0), (goal, 2.0)):
        for parameter in net.parameters():
            nn.init.constant_(parameter, value)
    teacher = Teacher(start.to(dtype) if convert == "before" else start, 0.999)
    teacher.to(dtype)
    goal.to(dtype)
    for i in range(2000):
        if i == 1000:  # a save and load keep what a half cannot
            restored = Teacher(goal, 0.999)
            restored.load_state_dict(teacher.state_dict())
            teacher = restored
        teacher.update(goal)
    for weight in teacher.module.parameters():
        assert weight.dtype == dtype
        torch.testing.assert_close(weight, torch.full_like(weight, 2 - 0.999**2000))
    assert {x.dtype for x in teacher.buffers()} == {torch.float32}
    assert not list(teacher.to(torch.float32).buffers())


def test_half_buffers_that_are_averaged_follow_too() -> None:
    start, goal = student(1.0).bfloat16(), student(2.0).bfloat16()
    teacher = Teacher(start, 0.999, buffers="average")
    for _ in range(1000):
        teacher.update(goal)
    mean = teacher.module[1].running_mean
    torch.testing.assert_close(mean, torch.full_like(mean, 2 - 0.999**1000))


def test_half_weights_that_were_written_to_are_believed() -> None:
    teacher = Teacher(student(1.0).bfloat16(), 0.5)
    teacher.module.load_state_dict(student(8.0).bfloat16().state_dict())
    teacher.update(student(4.0).bfloat16())
    assert torch.equal(teacher.module[0].weight, torch.full((3, 2), 6.0).bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_teacher_takes_a_state_in_float32(dtype: torch.dtype) -> None:
    """The copies begin with all of its digits, and are not what the half weights had before."""
    wide = Teacher(nn.BatchNorm1d(2), buffers="average")
    nn.init.constant_(wide.module.weight, 1 + 2**-14)
    nn.init.constant_(wide.module.running_mean, 3 + 2**-13)
    half = Teacher(nn.BatchNorm1d(2).to(dtype), buffers="average")
    state = wide.state_dict()
    half.load_state_dict(state)
    assert sorted(state) == sorted(wide.state_dict())  # what was given is as it was
    assert torch.equal(half.module.weight, torch.ones(2, dtype=dtype))
    copies = half.state_dict()
    assert torch.equal(copies["exact_0"], torch.full((2,), 1 + 2**-14))
    assert torch.equal(copies["exact_2"], torch.full((2,), 3 + 2**-13))


def test_float32_teacher_takes_the_copies_of_a_half_one() -> None:
    half = Teacher(nn.Linear(2, 1, bias=False).bfloat16())
    nn.init.ones_(half.module.weight)
    student = nn.Linear(2, 1, bias=False).bfloat16()
    nn.init.zeros_(student.weight)
    half.momentum = 1 - 2**-12
    half.update(student)
    state = nn.ModuleDict({"teacher": half}).state_dict()
    wide = Teacher(nn.Linear(2, 1, bias=False))
    nn.ModuleDict({"teacher": wide}).load_state_dict(state)
    assert torch.equal(wide.module.weight, torch.full((1, 2), 1 - 2**-12))
    state["teacher.module.weight"] = torch.full((1, 2), 5.0).bfloat16()  # written to since
    nn.ModuleDict({"teacher": wide}).load_state_dict(state)
    assert torch.equal(wide.module.weight, torch.full((1, 2), 5.0))


class Other(nn.Module):
    """The student's parameters, the two of the norm in another order."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.Module()
        norm.bias = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        norm.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.add_module("0", nn.Linear(2, 3).double())
        self.add_module("1", norm)


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (nn.Linear(2, 3), "no 0.weight"),
        (
            nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(3)),
            r"0.weight of shape \(1, 2\), where was",
        ),
        (nn.Sequential(nn.Linear(2, 3)), "no 1.weight"),
        (
            nn.Sequential(*student(1.0), nn.Linear(3, 1)),
            r"2.weight of shape \(1, 3\), where was nothing of that name",
        ),
        (Other(), "another order of its parts"),
    ],
)
def test_student_of_another_structure_is_refused(other: nn.Module, found: str) -> None:
    teacher = Teacher(student(1.0))
    message = f"Teacher: expected student to be of the structure that was copied, got {found}"
    with pytest.raises(ValueError, match=message):
        teacher.update(other.double())


def test_student_with_other_buffers_is_refused_where_they_are_taken() -> None:
    other = student(1.0)
    other[1] = nn.BatchNorm1d(3, track_running_stats=False).double()
    Teacher(student(1.0)).update(other)
    with pytest.raises(ValueError, match=r"got no 1\.running_mean"):
        Teacher(student(1.0), buffers="copy").update(other)


def test_compiled_student_is_of_the_same_structure() -> None:
    net = student(2.0)
    teacher = Teacher(student(1.0), 0.5)
    teacher.update(torch.compile(net))
    torch.testing.assert_close(teacher.module[0].weight, torch.full((3, 2), 1.5).double())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.01,), "expected momentum to be from 0 to 1, got 1.01"),
        ((float("nan"),), "expected momentum to be from 0 to 1, got nan"),
        ((0.9, "line"), "expected schedule to be 'constant' or 'cosine', got 'line'"),
    ],
)
def test_bad_settings_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Teacher(student(1.0), *arguments)


def test_bad_buffers_and_progress_are_refused() -> None:
    with pytest.raises(ValueError, match="expected buffers to be 'own' or 'copy' or 'average'"):
        Teacher(student(1.0), buffers="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected progress to be from 0 to 1, got 1\.5"):
        Teacher(student(1.0)).update(student(1.0), 1.5)
