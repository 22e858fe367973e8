"""Tensors on the meta device hold nothing: beside others that do, they are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sslkern

ROWS, DIM = 4, 6
Given = dict[str, Tensor]


def _given() -> Given:
    index = torch.zeros(ROWS, dtype=torch.int64)
    number = torch.tensor(0.5)
    return {
        **dict.fromkeys(("z_a", "z", "query", "image_features", "input", "student"), _eye()),
        **dict.fromkeys(("z_b", "key", "text_features", "teacher"), torch.ones(ROWS, DIM)),
        **dict.fromkeys(("temperature", "logit_scale", "logit_bias"), number),
        **dict.fromkeys(("ids", "key_ids", "target", "labels"), index),
        "bias": torch.ones(ROWS),
        "queue": torch.ones(3, DIM),
    }


def _eye() -> Tensor:
    return torch.eye(ROWS, DIM)


def _with(loss: Callable[..., Any], names: str, **more: Tensor) -> tuple[Any, Given]:
    given = _given()
    return loss, {name: given[name] for name in names.split()} | more


CALLS = {
    "ntxent": _with(sslkern.ntxent_loss, "z_a z_b temperature"),
    "info_nce": _with(sslkern.info_nce_loss, "query key temperature bias ids key_ids target"),
    "clip": _with(sslkern.clip_loss, "image_features text_features logit_scale"),
    "siglip": _with(sslkern.siglip_loss, "image_features text_features logit_scale logit_bias"),
    "supcon": _with(sslkern.supcon_loss, "z labels temperature"),
    "dcl": _with(sslkern.dcl_loss, "z_a z_b temperature"),
    "linear_cross_entropy": _with(
        sslkern.linear_cross_entropy,
        "input target",
        weight=torch.ones(5, DIM),
        bias=torch.ones(5),
        class_weight=torch.ones(5),
    ),
    "soft_cross_entropy": _with(
        sslkern.soft_cross_entropy,
        "student teacher",
        student_temperature=torch.tensor(0.1),
        teacher_temperature=torch.tensor(0.1),
        center=torch.ones(DIM),
    ),
    "sinkhorn": _with(
        sslkern.sinkhorn,
        "queue",
        scores=_eye(),
        prototype_marginal=torch.full((DIM,), 1 / DIM),
        row_weight=torch.ones(ROWS + 3),
        out=torch.ones(ROWS, DIM),
    ),
    "swav": (
        lambda z, low, queue: sslkern.swav_loss([z], [low], queue=[queue]),
        {"z": _eye(), "low": _eye(), "queue": torch.ones(3, DIM)},
    ),
    "barlow_twins": _with(sslkern.barlow_twins_loss, "z_a z_b"),
    "vicreg": _with(sslkern.vicreg_loss, "z_a z_b"),
    "negative_sampling": _with(
        sslkern.negative_sampling_loss,
        "query",
        table=torch.ones(5, DIM),
        positive=torch.zeros(ROWS, dtype=torch.int64),
        negative=torch.zeros(ROWS, 2, dtype=torch.int64),
    ),
}


@pytest.mark.parametrize(
    ("name", "argument"), [(name, x) for name, (_, given) in CALLS.items() for x in given]
)
def test_one_tensor_without_elements_is_refused(name: str, argument: str) -> None:
    loss, given = CALLS[name]
    with pytest.raises((ValueError, RuntimeError), match="meta"):
        loss(**given | {argument: given[argument].to("meta")})


@pytest.mark.parametrize("name", CALLS)
def test_all_of_them_give_shapes(name: str) -> None:
    loss, given = CALLS[name]
    found = loss(**{argument: x.to("meta") for argument, x in given.items()})
    expected = loss(**given)
    assert found.device.type == "meta"
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
