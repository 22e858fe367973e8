"""Losses as functions of rows and parameters, which several processes share or one has alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import sslkern

Tensors = Mapping[str, Tensor]
ENCODED = 5  # elements of what is encoded


@dataclass(frozen=True)
class Case:
    """A loss of rows.

    ``loss(z, more, parameters, **sharing)``: z are encoded rows by name, ``more`` other tensors
    with a row each, ``parameters`` numbers that are learnt.
    """

    about: str
    loss: Callable[..., Tensor]
    views: tuple[str, ...] = ("z_a", "z_b")
    more: Callable[[int, torch.Generator], dict[str, Tensor]] = lambda n, g: {}
    parameters: dict[str, float] = field(default_factory=dict)
    strategies: tuple[str, ...] = ("gather", "ring")
    dim: int = 4
    single: bool = True  # whether a rank may have one row
    rate: float = 0.03  # of the steps: small where the gradients are large

    def __str__(self) -> str:
        """As tests are called."""
        return self.about

    def inputs(self, rows: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """What is encoded, and more."""
        g = torch.Generator().manual_seed(0)
        draw = {
            name: torch.randn(rows, ENCODED, generator=g, dtype=torch.float64)
            for name in self.views
        }
        return {k: _cast(v, dtype) for k, v in (draw | self.more(rows, g)).items()}

    def learnt(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The encoder and the numbers."""
        g = torch.Generator().manual_seed(1)
        encoder = torch.randn(ENCODED, self.dim, generator=g, dtype=torch.float64)
        numbers = {k: torch.tensor(v, dtype=torch.float64) for k, v in self.parameters.items()}
        return {
            k: v.to(dtype).requires_grad_() for k, v in ({"encoder": encoder} | numbers).items()
        }

    def value(self, inputs: Tensors, learnt: Tensors, **sharing: Any) -> tuple[Tensor, Tensors]:
        """The loss, and the rows that it is of."""
        z = {name: inputs[name] @ learnt["encoder"] for name in self.views}
        for rows in z.values():
            rows.retain_grad()
        more = {k: v for k, v in inputs.items() if k not in self.views}
        numbers = {k: v for k, v in learnt.items() if k != "encoder"}
        return self.loss(z, more, numbers, **sharing), z


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


def _weights(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"weight": torch.rand(n, generator=g, dtype=torch.float64) + 0.1}


NTXENT = (
    Case("ntxent", lambda z, more, p, **s: sslkern.ntxent_loss(z["z_a"], z["z_b"], 0.2, **s)),
    Case(
        "ntxent, learnt temperature, weights",
        lambda z, more, p, **s: sslkern.ntxent_loss(
            z["z_a"], z["z_b"], p["temperature"], weight=more["weight"], **s
        ),
        more=_weights,
        parameters={"temperature": 0.3},
    ),
    Case(
        "ntxent, sum, as they are",
        lambda z, more, p, **s: sslkern.ntxent_loss(
            z["z_a"], z["z_b"], 2.0, normalize=False, reduction="sum", **s
        ),
        rate=0.003,
    ),
)


def _ids(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"ids": torch.randint(3, (n,), generator=g)}


def _of_columns(n: int, g: torch.Generator) -> dict[str, Tensor]:
    bias = torch.randn(n, generator=g, dtype=torch.float64)
    return _ids(n, g) | _weights(n, g) | {"bias": bias, "temperature": 0.3 + 0.5 * bias.abs()}


def _bank(dim: int, like: Tensor, rows: int = 5) -> Tensor:
    """A queue, the same on all ranks."""
    g = torch.Generator().manual_seed(2)
    return torch.randn(rows, dim, generator=g, dtype=torch.float64).to(like.dtype)


def _info_nce(about: str, **options: Any) -> Case:
    """With tensors of the case, parameters and a bank by the names of the options they are."""

    def loss(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
        given = {k: v for k, v in options.items() if k not in ("more", "bank", "rate")}
        if "bank" in options:
            given["negatives"] = _bank(4, z["z_a"])
        taken = {"temperature": 0.3} | dict(more) | dict(p) | given
        return sslkern.info_nce_loss(z["z_a"], z["z_b"], **taken, **sharing)

    more = options.get("more", lambda n, g: {})
    parameters = {} if more is _of_columns else {"temperature": 0.5}
    # One temperature for one column and one for all look the same: ranks say that they disagree.
    single = more is not _of_columns
    return Case(f"info_nce, {about}", loss, more=more, parameters=parameters, single=single)


def _with_targets(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
    return sslkern.info_nce_loss(
        z["z_a"],
        z["z_b"],
        _bank(4, z["z_a"]),
        in_batch=True,
        target=more["target"],
        temperature=p["temperature"],
        label_smoothing=0.1,
        **sharing,
    )


def _targets(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"target": torch.randint(n, (n,), generator=g)}


INFO_NCE = (
    _info_nce("one direction"),
    _info_nce("symmetric", symmetric=True),
    _info_nce("sum", reduction="sum", normalize=False),
    _info_nce("smoothing", symmetric=True, label_smoothing=0.2),
    _info_nce("ids", more=_ids, symmetric=True),
    _info_nce("ids, smoothing", more=_ids, label_smoothing=0.2),
    _info_nce("of columns", more=_of_columns, symmetric=True),
    _info_nce("bank", bank=True),
    _info_nce("bank, smoothing", bank=True, label_smoothing=0.2),
    _info_nce("batch and bank", bank=True, in_batch=True),
    _info_nce("batch and bank, smoothing", bank=True, in_batch=True, label_smoothing=0.2),
    Case(
        "info_nce, targets",
        _with_targets,
        more=_targets,
        parameters={"temperature": 0.4},
        strategies=("gather",),
    ),
    Case(
        "clip",
        lambda z, more, p, **s: sslkern.clip_loss(z["z_a"], z["z_b"], p["scale"], p["bias"], **s),
        parameters={"scale": 1.5, "bias": 0.1},
        rate=0.003,
    ),
)


def _swav(about: str, *, queue: bool = False, **options: Any) -> Case:
    """Two views that are assigned, with a queue or without, and one that only predicts."""

    def loss(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
        high, low = [z["high_0"] / 8, z["high_1"] / 8], [z["low"] / 8]
        queues = list(more.values()) or None
        return sslkern.swav_loss(high, low, queues, **options, **sharing)

    def queues(n: int, g: torch.Generator) -> dict[str, Tensor]:
        names = ("queue_0", "queue_1") if queue else ()
        return {name: torch.randn(n, 4, generator=g, dtype=torch.float64) / 4 for name in names}

    return Case(f"swav, {about}", loss, ("high_0", "high_1", "low"), queues, strategies=("gather",))


def _siglip(about: str, **options: Any) -> Case:
    def loss(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
        rows = (z["z_a"], z["z_b"], p["scale"], p["bias"])
        return sslkern.siglip_loss(*rows, weight=more.get("weight"), **options, **sharing)

    more = _weights if "reduction" not in options else lambda n, g: {}
    return Case(
        f"siglip, {about}", loss, more=more, parameters={"scale": 1.5, "bias": -2.0}, rate=1e-3
    )


def _dcl(about: str, **options: Any) -> Case:
    def loss(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
        return sslkern.dcl_loss(z["z_a"], z["z_b"], p["temperature"], **options, **sharing)

    # Rows as they are have large logits, whose rounding in float32 is seen at low temperatures.
    temperature = 0.4 if options.get("normalize", True) else 4.0
    return Case(f"dcl, {about}", loss, parameters={"temperature": temperature}, rate=0.01)


def _far_positives(a: Tensor, b: Tensor) -> Tensor:
    """Weights that depend on all rows, with a gradient."""
    return 2 - len(a) * (a * b).sum(1).div(0.5).softmax(0)


DCL = (
    _dcl("mean"),
    _dcl("sum, as they are", reduction="sum", normalize=False),
    _dcl("weights", weight_fn=_far_positives),
)

SIGLIP = (
    _siglip("weights"),
    _siglip("sum", reduction="sum"),
    _siglip("negatives alone", reduction="mean", negative_only=True),
)

SWAV = (
    _swav("three iterations"),
    _swav("softmax", iterations=0),
    _swav("queues", queue=True, iterations=5, epsilon=0.1, temperature=0.2),
)

MODULES = (
    Case(
        "NTXentLoss",
        lambda z, more, p, **s: sslkern.losses.NTXentLoss(0.2, **s)(z["z_a"], z["z_b"]),
    ),
    Case(
        "InfoNCELoss",
        lambda z, more, p, **s: sslkern.losses.InfoNCELoss(0.2, True, **s)(z["z_a"], z["z_b"]),
    ),
)

CASES = MODULES + NTXENT + INFO_NCE + DCL + SIGLIP + SWAV
