"""What one rank is given wrong, or unlike the others, all refuse: also a rank that has no rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks
from torch import Tensor

import sslkern

ROWS, DIM = 3, 4
Given = dict[str, Any]


@dataclass(frozen=True)
class Wrong:
    """A call on two ranks; ``second`` replaces what the second one is ``given``."""

    loss: Callable[..., Tensor]
    second: Callable[[], Given]
    message: str  # a pattern of what every rank says
    given: Callable[[int], Given] = field(default=lambda rows: {})
    views: int = 2


def _labels(rows: int) -> Given:
    return {"labels": torch.arange(rows)}


def _rows(rows: int) -> Given:
    return {
        "table": torch.ones(5, DIM),
        "positive": torch.zeros(rows, dtype=torch.int64),
        "negative": torch.zeros(rows, 2, dtype=torch.int64),
    }


def _classes(rows: int) -> Given:
    return {"weight": torch.ones(5, DIM), "target": torch.zeros(rows, dtype=torch.int64)}


def _classes_and_bias(rows: int) -> Given:
    return _classes(rows) | {"bias": torch.ones(5)}


def _bank(rows: int) -> Given:
    return {"negatives": torch.ones(6, DIM)}


TWO = torch.ones(2)
# A rank that has no rows never asks an operator: it has to look by itself.
ALONE = {
    "temperature of ntxent": Wrong(
        sslkern.ntxent_loss,
        lambda: {"temperature": TWO},
        r"temperature to be a number or a tensor with one element, got shape \(2,\)",
    ),
    "negative temperature of ntxent": Wrong(
        sslkern.ntxent_loss, lambda: {"temperature": -1.0}, "temperature to be positive and finite"
    ),
    "temperature of dcl": Wrong(
        sslkern.dcl_loss, lambda: {"temperature": TWO}, "temperature to be a number or a tensor"
    ),
    "temperature of supcon": Wrong(
        sslkern.supcon_loss,
        lambda: {"temperature": torch.tensor(1)},
        "temperature to be of dtype torch.float64, .* got torch.int64",
        _labels,
        views=1,
    ),
    "t of uniformity": Wrong(
        sslkern.uniformity, lambda: {"t": TWO}, "t to be a number or a tensor", views=1
    ),
    "scale of siglip": Wrong(
        sslkern.siglip_loss,
        lambda: {"logit_scale": TWO},
        "logit_scale to be a number or a tensor with one element",
        lambda rows: {"logit_scale": 1.0},
    ),
    "negative scale of siglip": Wrong(
        sslkern.siglip_loss,
        lambda: {"logit_scale": -1.0},
        "logit_scale to be positive and finite, got -1",
        lambda rows: {"logit_scale": 1.0},
    ),
    "bias of siglip": Wrong(
        sslkern.siglip_loss,
        lambda: {"logit_bias": TWO},
        "logit_bias to be a number or a tensor with one element",
        lambda rows: {"logit_scale": 1.0},
    ),
    "normalize of ntxent": Wrong(
        sslkern.ntxent_loss, lambda: {"normalize": "yes"}, "normalize to be a bool, got str"
    ),
    "normalize of dcl": Wrong(
        sslkern.dcl_loss, lambda: {"normalize": 1}, "normalize to be a bool, got int"
    ),
    "normalize of supcon": Wrong(
        sslkern.supcon_loss,
        lambda: {"normalize": None},
        "normalize to be a bool, got NoneType",
        _labels,
        views=1,
    ),
    "symmetric": Wrong(
        sslkern.info_nce_loss, lambda: {"symmetric": "yes"}, "symmetric to be a bool, got str"
    ),
    "negative_only": Wrong(
        sslkern.siglip_loss,
        lambda: {"negative_only": 1},
        "negative_only to be a bool, got int",
        lambda rows: {"logit_scale": 1.0},
    ),
    "bias of negatives alone": Wrong(
        sslkern.info_nce_loss,
        lambda: {"bias": torch.ones(6)},
        "bias to be None with negatives alone",
        _bank,
    ),
    "temperatures of negatives alone": Wrong(
        sslkern.info_nce_loss,
        lambda: {"temperature": torch.ones(6)},
        "temperature to be one number with negatives alone",
        _bank,
    ),
    "smoothing of info_nce": Wrong(
        sslkern.info_nce_loss,
        lambda: {"label_smoothing": "a"},
        "label_smoothing to be a number, got str",
    ),
    "smoothing of classes": Wrong(
        sslkern.linear_cross_entropy,
        lambda: {"label_smoothing": "a"},
        "label_smoothing to be a number, got str",
        _classes,
        views=1,
    ),
    "eps of sampled nce": Wrong(
        sslkern.sampled_nce_loss,
        lambda: {"eps": "x"},
        "eps to be a number, got str",
        _rows,
        views=1,
    ),
    "bias of classes": Wrong(
        sslkern.linear_cross_entropy,
        lambda: {"bias": torch.ones(3)},
        r"bias to be of shape \(V,\) = \(5,\)",
        _classes_and_bias,
        views=1,
    ),
    "weights of classes": Wrong(
        sslkern.linear_cross_entropy,
        lambda: {"class_weight": torch.ones(2)},
        r"class_weight to be of shape \(V,\) = \(5,\)",
        lambda rows: _classes(rows) | {"class_weight": torch.ones(5)},
        views=1,
    ),
    "center": Wrong(
        sslkern.soft_cross_entropy,
        lambda: {"center": torch.ones(3)},
        "center to be of shape",
        lambda rows: {"student_temperature": 0.1, "center": torch.ones(DIM)},
    ),
    "sparse negatives": Wrong(
        sslkern.info_nce_loss,
        lambda: {"negatives": torch.ones(6, DIM).to_sparse()},
        "negatives to be a dense tensor, got layout torch.sparse_coo",
        _bank,
    ),
    "several flags": Wrong(
        sslkern.info_nce_loss,
        lambda: {"in_batch": torch.ones(2)},
        "in_batch to be a bool, got Tensor",
        _bank,
    ),
    "hard": Wrong(sslkern.sinkhorn, lambda: {"hard": "a"}, "hard to be a bool, got str", views=1),
    "potentials": Wrong(
        sslkern.sinkhorn,
        lambda: {"return_potentials": TWO},
        "return_potentials to be a bool, got Tensor",
        views=1,
    ),
    "marginal": Wrong(
        sslkern.sinkhorn,
        lambda: {"prototype_marginal": torch.full((2,), 0.5)},
        "prototype_marginal to be",
        lambda rows: {"prototype_marginal": torch.full((DIM,), 1 / DIM)},
        views=1,
    ),
    "negative marginal": Wrong(
        sslkern.sinkhorn,
        lambda: {"prototype_marginal": torch.tensor([-1.0, 1, 0.5, 0.5])},
        "prototype_marginal to be",
        lambda rows: {"prototype_marginal": torch.full((DIM,), 1 / DIM)},
        views=1,
    ),
    "generator of wmse": Wrong(
        sslkern.wmse_loss,
        lambda: {"generator": 3, "w_size": 8},
        "generator to be a torch.Generator, got int",
        lambda rows: {"w_size": 8},
    ),
}


def _call(group: Any, name: str, empty: bool) -> None:
    wrong, second = ALONE[name], dist.get_rank(group) == 1
    rows = 0 if second and empty else ROWS
    views = [torch.ones(rows, DIM) for _ in range(wrong.views)]
    given = wrong.given(rows) | (wrong.second() if second else {})
    wrong.loss(*views, **given, gather_distributed=True, process_group=group)


@pytest.mark.parametrize("empty", [False, True], ids=["rows", "no rows"])
@pytest.mark.parametrize("name", ALONE)
def test_all_refuse_what_one_is_given_wrong(ranks: Ranks, name: str, empty: bool) -> None:
    for text in ranks.errors(2, _call, name, empty).values():
        assert re.search(ALONE[name].message, text.partition("\n")[0])


def _disagreeing(group: Any, name: str) -> Tensor:
    z = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(dist.get_rank(group)))
    second = dist.get_rank(group) == 1
    sharing = {"gather_distributed": True, "process_group": group}
    ids = torch.arange(ROWS)
    if name == "views":
        return sslkern.supcon_loss(torch.ones(6 // (2 + second), 2 + second, DIM), **sharing)
    if name == "negatives":
        bank = torch.ones(5, DIM).requires_grad_(second)
        return sslkern.info_nce_loss(z, z, bank, **sharing)
    if name == "weight":
        weight = torch.ones(ROWS).requires_grad_(second)
        return sslkern.ntxent_loss(z, z, weight=weight, **sharing)
    if name == "sparse":
        views = torch.ones(2, 2, DIM)
        return sslkern.supcon_loss(views.to_sparse() if second else views, **sharing)
    if name == "sparse input":
        views = torch.ones(2, 2, DIM)
        target = torch.zeros(2, 2, dtype=torch.int64)
        given = views.to_sparse() if second else views
        return sslkern.linear_cross_entropy(given, torch.ones(5, DIM), target, **sharing)
    if name == "ids alone":
        return sslkern.info_nce_loss(z, z, torch.ones(5, DIM), ids=ids, **sharing)
    if name == "key_ids alone":
        return sslkern.info_nce_loss(z, z, key_ids=ids, **sharing)
    if name in ("target of no rows", "numbers of no rows"):
        rows, numbers = ROWS - ROWS * second, name == "numbers of no rows"
        target = torch.zeros(ROWS - second * numbers * ROWS, dtype=torch.int64)
        target = target.int() if second and numbers else target
        return sslkern.linear_cross_entropy(z[:rows], torch.ones(5, DIM), target, **sharing)
    if name in ("one of many temperatures", "many in a ring"):
        temperature = torch.ones(1 if second else ROWS)
        how = {"strategy": "ring" if name == "many in a ring" else "gather"}
        return sslkern.info_nce_loss(z, z, temperature=temperature, **sharing, **how)
    if name in ("strided out", "sparse out"):
        out = torch.ones(DIM, ROWS).T if second else torch.ones(ROWS, DIM)
        out = out.to_sparse() if second and name == "sparse out" else out
        return sslkern.sinkhorn(z, out=out, **sharing)
    if name == "meta":
        return sslkern.sinkhorn(z.to("meta") if second else z, tolerance=0.1, **sharing)
    if name == "uneven ids":
        target, keys = torch.zeros(ROWS, dtype=torch.int64), z[: ROWS - second]
        return sslkern.info_nce_loss(z, keys, target=target, ids=ids, **sharing)
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("views", "the number of views to be the same on all ranks, got 2 on rank 0 and 3"),
        ("negatives", "negatives to be the same on all ranks, got 'one' on rank 0 and 'one that"),
        ("weight", "the weight of rows to be the same on all ranks, got 'one' on rank 0 and 'one"),
        ("sparse", "z to be a dense tensor, got layout torch.sparse_coo"),
        ("sparse input", "input to be a dense tensor, got layout torch.sparse_coo"),
        ("ids alone", "key_ids to be given exactly when ids is, got ids alone"),
        ("key_ids alone", "key_ids to be given exactly when ids is, got key_ids alone"),
        ("target of no rows", r"target to be without rows, as the others, got shape \(3,\)"),
        ("numbers of no rows", "target to be of dtype torch.int64"),
        ("one of many temperatures", r"temperature to be of shape \(columns,\) on all ranks or on"),
        ("many in a ring", r"temperature to be of shape \(columns,\) on all ranks or on none"),
        ("strided out", r"out to be of adjacent columns, got strides \(1, 3\)"),
        ("sparse out", "out to be a dense tensor, got layout torch.sparse_coo"),
        ("meta", "the kind of device of scores to be the same on all ranks, got cpu on rank 0 and"),
        ("uneven ids", "key_ids to be given where a rank has more queries or keys, got ids alone"),
    ],
)
def test_ranks_that_are_unlike_all_raise(ranks: Ranks, name: str, message: str) -> None:
    for text in ranks.errors(2, _disagreeing, name).values():
        assert re.search(message, text.partition("\n")[0])


def _with_contents(group: Any, name: str, alike: bool) -> Tensor:
    """Of one shape on both ranks; on the second one another number, unless they are alike."""
    sharing = {"gather_distributed": True, "process_group": group}
    z, rows = torch.eye(ROWS, DIM), torch.full((5, DIM), 0.5, dtype=torch.float32)
    many = torch.ones(5)
    for x in (rows, many):
        x.view(-1)[-1] += 0 if alike else dist.get_rank(group)
    target, index = torch.zeros(ROWS, dtype=torch.int64), torch.zeros(ROWS, 2, dtype=torch.int64)
    with sslkern.check_values():
        if name == "negatives":
            return sslkern.info_nce_loss(z, z, rows.bfloat16().float(), **sharing)
        if name == "queue":
            return sslkern.ressl_loss(z, z, rows, **sharing)
        if name == "table":
            return sslkern.negative_sampling_loss(z, rows, target, index, **sharing)
        if name == "prototype_marginal":
            marginal = many.flip(0) / many.sum()
            return sslkern.sinkhorn(torch.ones(ROWS, 5), prototype_marginal=marginal, **sharing)
        if name == "weight":
            return sslkern.linear_cross_entropy(z, rows.T.contiguous().T, target, **sharing)
        given = {name: many}
        return sslkern.linear_cross_entropy(z, torch.ones(5, DIM), target, **given, **sharing)


WHOLE = ("negatives", "queue", "table", "prototype_marginal", "weight", "bias", "class_weight")


@pytest.mark.parametrize("name", WHOLE)
def test_contents_of_what_all_have_are_compared_when_values_are(ranks: Ranks, name: str) -> None:
    for text in ranks.errors(2, _with_contents, name, False).values():
        message = f"expected the contents of {name} to be the same on all ranks, got of digest"
        assert message in text.partition("\n")[0]
    assert all(x.isfinite().all() for x in ranks.run(2, _with_contents, name, True))


def _one_temperature(group: Any) -> Tensor:
    z = torch.eye(ROWS, DIM)
    shape = () if dist.get_rank(group) == 0 else (1, 1)
    temperature = torch.full(shape, 0.5)
    sharing = {"gather_distributed": True, "process_group": group}
    return sslkern.info_nce_loss(z, z, temperature=temperature, **sharing)


def test_one_temperature_is_one_in_any_shape(ranks: Ranks) -> None:
    z = torch.eye(ROWS, DIM).repeat(2, 1)
    expected = sslkern.info_nce_loss(z, z, temperature=0.5)
    for loss in ranks.run(2, _one_temperature):
        torch.testing.assert_close(loss, expected)


def _all_rows(group: Any, second: Tensor) -> Tensor:
    x = second if dist.get_rank(group) == 1 else torch.ones(2, DIM)
    return sslkern.parallel.all_rows(x, group)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int16, torch.bfloat16, torch.float64, torch.complex64], ids=str
)
def test_all_rows_are_of_any_dtype(ranks: Ranks, dtype: torch.dtype) -> None:
    rows = torch.arange(24).reshape(4, 2, 3).to(dtype)
    for found in ranks.run(2, _halves, rows):
        assert found.dtype == dtype
        assert torch.equal(found, rows)


def test_all_rows_may_be_empty(ranks: Ranks) -> None:
    for found in ranks.run(2, _halves, torch.ones(4, 0)):
        assert found.shape == (4, 0)


def _halves(group: Any, rows: Tensor) -> Tensor:
    return sslkern.parallel.all_rows(rows.split([1, 3])[dist.get_rank(group)], group)


def _equal_numbers(group: Any) -> Tensor:
    z = torch.eye(ROWS, DIM)
    temperature = [1, 1.0][dist.get_rank(group)]
    return sslkern.ntxent_loss(z, z, temperature, gather_distributed=True, process_group=group)


def test_equal_numbers_of_another_type_agree(ranks: Ranks) -> None:
    first, second = ranks.run(2, _equal_numbers)
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (torch.ones(2, DIM, dtype=torch.float64), "the dtype of x to be the same on all ranks"),
        (torch.ones(2, 5), "the shape of a row of x to be the same on all ranks"),
        (torch.tensor(1.0), r"x to be of shape \(N, \.\.\.\), got shape \(\)"),
    ],
    ids=["dtype", "width", "number"],
)
def test_all_rows_are_of_one_kind(ranks: Ranks, second: Tensor, message: str) -> None:
    for text in ranks.errors(2, _all_rows, second).values():
        assert re.search(message, text.partition("\n")[0])


def test_ranks_go_on_after_wrong_arguments(ranks: Ranks) -> None:
    """The group is as it was: nothing that one of them has begun is left over."""
    ranks.errors(2, _disagreeing, "views")
    for found in ranks.run(2, _all_rows, torch.zeros(1, DIM)):
        assert torch.equal(found, torch.tensor([1.0, 1, 0])[:, None].expand(3, DIM))


def _clip(group: Any) -> None:
    z = torch.ones(2, DIM + dist.get_rank(group))
    sslkern.clip_loss(z, z, 1.0, gather_distributed=True, process_group=group)


def test_clip_names_its_features(ranks: Ranks) -> None:
    for text in ranks.errors(2, _clip).values():
        assert "the shape of a row of image_features to be the same on all ranks" in text


def _fails_on_one(group: Any) -> None:
    def weights(a: Tensor, b: Tensor) -> Tensor:
        if dist.get_rank(group) == 1:
            raise KeyError("no weights")
        return torch.ones(len(a))

    z = torch.eye(ROWS, DIM)
    sslkern.dcl_loss(z, z, weight_fn=weights, gather_distributed=True, process_group=group)


def test_a_function_that_fails_on_one_rank_ends_all(ranks: Ranks) -> None:
    first, second = (text for _, text in sorted(ranks.errors(2, _fails_on_one).items()))
    assert first.startswith("RuntimeError: sslkern::supcon: expected a function that was given")
    assert "got an error on rank 1" in first
    assert second.startswith("KeyError: 'no weights'")


def _no_group(group: Any) -> list[str]:
    """What is no group of processes, given to losses on each rank alone."""
    z, errors = torch.ones(2, DIM), []
    calls: list[Callable[..., Any]] = [
        lambda **s: sslkern.negative_sampling_loss(z, **_rows(2), **s),
        lambda **s: sslkern.alignment(z, z, **s),
        lambda **s: sslkern.ntxent_loss(z, z, **s),
    ]
    for call in calls:
        with pytest.raises(TypeError) as caught:
            call(gather_distributed=True, process_group=3)
        errors.append(str(caught.value))
    return errors


def test_what_is_no_group_is_refused(ranks: Ranks) -> None:
    for text in ranks.run(1, _no_group)[0]:
        assert "expected process_group to be a torch.distributed.ProcessGroup, got int" in text
