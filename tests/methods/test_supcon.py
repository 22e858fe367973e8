"""SupCon beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import check_steps, image_batches, small_encoder, unit
from torch import Tensor

from sslkern.methods import SupCon

LABELS = torch.tensor([0, 1, 1, 2, 0, 1])


def make(**options: Any) -> SupCon:
    torch.manual_seed(0)
    settings = {"projection_dim": 5, "temperature": 0.3, **options}
    return SupCon(small_encoder(), 12, **settings).double()


def plain_loss(m: SupCon, view_a: Tensor, view_b: Tensor, labels: Tensor) -> Tensor:
    z = unit(m.head(m.encoder(torch.cat([view_a, view_b]))))
    labels = torch.cat([labels, labels])
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        s = z[others] @ z[i] / m.temperature
        share = s.softmax(0)[labels[others] == labels[i]]
        losses.append(-share.log().mean() if m.variant == "out" else -share.mean().log())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("variant", ["out", "in"])
def test_steps_equal_the_formula(variant: str) -> None:
    batches = [(*views, LABELS.roll(i)) for i, views in enumerate(image_batches())]
    check_steps(make(variant=variant), plain_loss, batches)


def test_equal_projections_leave_the_log_of_the_number_of_others() -> None:
    model = make()
    view = torch.rand(1, 1, 4, 4, dtype=torch.float64).expand(6, 1, 4, 4)
    torch.testing.assert_close(
        model.eval()(view, view, LABELS).item(), math.log(11), rtol=1e-12, atol=0
    )


def test_without_norms_one_sample_is_enough() -> None:
    loss = SupCon(torch.nn.Identity(), 4)(*torch.rand(2, 1, 4), LABELS[:1])
    assert abs(loss.item()) < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "SupCon: expected temperature to be positive"),
        ({"hidden_dim": 0}, "SupCon: expected hidden_dim to be positive, got 0"),
        ({"projection_dim": -1}, "SupCon: expected projection_dim to be positive, got -1"),
        ({"variant": "both"}, "expected variant to be one of 'out', 'in'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_arguments_that_do_not_fit_are_refused() -> None:
    view_a, view_b = image_batches()[0]
    with pytest.raises(ValueError, match=r"SupCon: expected labels to be of shape \(6,\)"):
        make()(view_a, view_b, LABELS[:5])
    with pytest.raises(TypeError, match=r"labels to be of dtype .*int64, got torch.float32"):
        make()(view_a, view_b, LABELS.float())
    with pytest.raises(ValueError, match=r"SupCon: expected view 2 .* \(6, 1, 4, 4\), got \(5,"):
        make()(view_a, view_b[:5], LABELS)
