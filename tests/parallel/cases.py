"""Losses as functions of rows and parameters, which several processes share or one has alone."""

from __future__ import annotations

import functools
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
        given = {k: v for k, v in options.items() if k not in ("more", "bank", "own")}
        if "bank" in options:
            given["negatives"] = _bank(4, z["z_a"])
        taken = {"temperature": 0.3} | dict(more) | dict(p) | given
        return sslkern.info_nce_loss(z["z_a"], z["z_b"], **taken, **sharing)

    more = options.get("more", lambda n, g: {})
    own = more is _of_columns or options.get("own", False)
    parameters = {} if own else {"temperature": 0.5}
    return Case(f"info_nce, {about}", loss, more=more, parameters=parameters)


def _targets(of_bank: int) -> Any:
    """Any columns: keys, or rows of a bank that follow them."""
    return lambda n, g: {"target": torch.randint(n + of_bank, (n,), generator=g)}


def _targets_and_ids(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return _targets(0)(n, g) | _ids(n, g)


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
    _info_nce("bank, ids", more=_ids, bank=True, key_ids=torch.tensor([0, 1, 2, 3, 4])),
    _info_nce("batch and bank", bank=True, in_batch=True),
    _info_nce("batch and bank, smoothing", bank=True, in_batch=True, label_smoothing=0.2),
    _info_nce("targets", more=_targets(0)),
    _info_nce("targets, ids", more=_targets_and_ids, label_smoothing=0.1),
    _info_nce("targets in a bank", more=_targets(5), bank=True, in_batch=True, label_smoothing=0.1),
    _info_nce(
        "targets, of columns", more=lambda n, g: _targets(0)(n, g) | _of_columns(n, g), own=True
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


def _few_labels(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"labels": torch.randint(3, (n,), generator=g)}


def _labels_and_weights(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return _few_labels(n, g) | _weights(n, g)


def _of_one(n: int, g: torch.Generator) -> dict[str, Tensor]:
    """No class has two rows, but for two."""
    return {"labels": torch.arange(n) % max(n - 1, 1)}


def _supcon(about: str, more: Any = _few_labels, **options: Any) -> Case:
    def loss(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
        given = {"temperature": p["temperature"], **more, **options}
        return sslkern.supcon_loss(z["z_a"], **given, **sharing)

    # Rows as they are have large logits, as in DCL.
    temperature = 0.5 if options.get("normalize", True) else 4.0
    parameters = {"temperature": temperature}
    return Case(f"supcon, {about}", loss, ("z_a",), more, parameters, rate=0.01)


def _views_of_samples(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
    """Without labels: the views of a sample are a class."""
    return sslkern.supcon_loss(torch.stack([z["z_a"], z["z_b"]], 1), temperature=0.5, **sharing)


SUPCON = (
    *(
        _supcon(
            f"{variant}, weights", lambda n, g: _few_labels(n, g) | _weights(n, g), variant=variant
        )
        for variant in ("out", "in", "in_sum", "pairwise")
    ),
    _supcon("pairwise, sum, base", variant="pairwise", reduction="sum", base_temperature=0.7),
    _supcon("as they are, no class twice", _of_one, normalize=False),
    Case("supcon, views", _views_of_samples),
    Case(
        "uniformity",
        lambda z, more, p, **s: sslkern.uniformity(z["z_a"], p["t"], **s),
        ("z_a",),
        parameters={"t": 1.5},
    ),
)


def _vicreg(about: str, dim: int = 4, **options: Any) -> Case:
    def loss(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
        weights = (2.0, 5.0, 0.5)
        return sslkern.vicreg_loss(z["z_a"] / 4, z["z_b"] / 4, *weights, **options, **sharing)

    return Case(f"vicreg, {about}", loss, strategies=("gather",), dim=dim)


def _barlow(about: str, dim: int, **options: Any) -> Case:
    def loss(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
        return sslkern.barlow_twins_loss(z["z_a"], z["z_b"], 0.1, **options, **sharing)

    return Case(f"barlow twins, {about}", loss, strategies=("gather",), dim=dim, rate=0.01)


def _term(name: str, *views: str, dim: int = 4, **options: Any) -> Case:
    def loss(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
        return getattr(sslkern, name)(*(z[v] / 4 for v in views), **options, **sharing)

    about = ", ".join([name, *options])
    return Case(about, loss, views, strategies=("gather",), dim=dim)


DECORRELATION = (
    _barlow("columns", 4),
    _barlow("rows", 12, scale=0.5),
    _vicreg("columns"),
    _vicreg("rows, solo", 12, variant="solo"),
    _vicreg("rows, vibcreg", 12, variant="vibcreg"),
    _term("variance_loss", "z_a", eps=0.01),
    _term("covariance_loss", "z_a"),
    _term("covariance_loss", "z_a", dim=12, normalize_columns=True),
    _term("invariance_loss", "z_a", "z_b"),
)


def _linear(about: str, more: Any, **options: Any) -> Case:
    """A vocabulary of seven classes, the same on all ranks."""

    def loss(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
        weight = _bank(4, z["z_a"], 7)
        given = dict(options)
        if "class_weight" in given:
            given["class_weight"] = torch.arange(1.0, 8.0).to(weight.dtype)
        bias = p["bias"].expand(7)
        return sslkern.linear_cross_entropy(
            z["z_a"], weight * p["factor"], more["target"], bias=bias, **given, **sharing
        )

    parameters = {"factor": 0.7, "bias": 0.1}
    return Case(
        f"linear_cross_entropy, {about}", loss, ("z_a",), more, parameters, ("gather",), rate=0.01
    )


def _classes(n: int, g: torch.Generator) -> dict[str, Tensor]:
    target = torch.randint(7, (n,), generator=g)
    return {"target": target.masked_fill(torch.arange(n) % 3 == 1, -100)}


def _ignored(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"target": torch.full((n,), -100)}


def _class_probabilities(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"target": torch.randn(n, 7, generator=g, dtype=torch.float64).softmax(1)}


def _teacher(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"teacher": torch.randn(n, 4, generator=g, dtype=torch.float64)}


def _soft(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
    center = torch.linspace(-0.1, 0.1, 4, dtype=z["z_a"].dtype)
    return sslkern.soft_cross_entropy(
        z["z_a"],
        more["teacher"],
        student_temperature=p["temperature"],
        teacher_temperature=0.5,
        center=center,
        weight=more["weight"],
        **sharing,
    )


def _ressl(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
    rows = (z["z_a"], more["teacher"], _bank(4, z["z_a"]))
    return sslkern.ressl_loss(*rows, student_temperature=p["temperature"], **sharing)


def _samples(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {
        "positive": torch.randint(9, (n,), generator=g),
        "negative": torch.randint(9, (n, 3), generator=g),
    }


def _sampled(name: str, about: str, **options: Any) -> Case:
    def loss(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
        table = _bank(4, z["z_a"], 9) * p["factor"]
        function = getattr(sslkern, name)
        return function(z["z_a"], table, **dict(more), **options, **sharing)

    return Case(
        f"{name}, {about}", loss, ("z_a",), _samples, {"factor": 0.5}, ("gather",), rate=0.01
    )


ROWS = (
    _linear("ignored rows", _classes),
    _linear("all ignored", _ignored),
    _linear("class weights", _classes, class_weight=True, label_smoothing=0.1),
    _linear("probabilities, softcap", _class_probabilities, softcap=5.0),
    _linear("sum", _classes, reduction="sum"),
    Case(
        "soft_cross_entropy",
        _soft,
        ("z_a",),
        lambda n, g: _teacher(n, g) | _weights(n, g),
        {"temperature": 0.8},
        ("gather",),
    ),
    Case("ressl", _ressl, ("z_a",), _teacher, {"temperature": 0.5}, ("gather",)),
    *(
        Case(
            f"alignment, {alpha}",
            functools.partial(
                lambda z, more, p, alpha, **s: sslkern.alignment(z["z_a"], z["z_b"], alpha, **s),
                alpha=alpha,
            ),
            strategies=("gather",),
        )
        for alpha in (1.5, 2)
    ),
    _sampled("negative_sampling_loss", "mean"),
    _sampled("sampled_nce_loss", "estimated", temperature=0.5),
    _sampled("sampled_nce_loss", "sum, eps", log_normalizer=1.0, eps=1e-3, reduction="sum"),
)


def _two_views(name: str, **options: Any) -> Case:
    def loss(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
        return getattr(sslkern, name)([z["z_a"], z["z_b"]], **options, **sharing)

    return Case(", ".join([name, *options]), loss, strategies=("gather",), rate=0.01)


def _wmse(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
    """Few columns: a sub-batch has twice as many rows. Ranks draw the same partitions."""
    g = torch.Generator().manual_seed(5)
    return sslkern.wmse_loss(z["z_a"], z["z_b"], generator=g, **sharing)


def _tico(z: Tensors, more: Tensors, p: Tensors, **sharing: Any) -> Tensor:
    matrix = _bank(4, z["z_a"], 4).square()
    return sslkern.tico_loss(z["z_a"], z["z_b"], matrix, differentiate_covariance=True, **sharing)


WHOLE = (
    Case("wmse", _wmse, strategies=("gather",), dim=2),
    Case("tico", _tico, strategies=("gather",)),
    _two_views("mmcr_loss", lmda=0.1),
    _two_views("frossl_loss", invariance_weight=0.3),
    Case(
        "koleo",
        lambda z, more, p, **s: sslkern.koleo_loss(z["z_a"], **s),
        ("z_a",),
        strategies=("gather",),
        rate=0.01,
    ),
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

CASES = (
    *MODULES,
    *NTXENT,
    *INFO_NCE,
    *DCL,
    *SIGLIP,
    *SWAV,
    *SUPCON,
    *DECORRELATION,
    *ROWS,
    *WHOLE,
)
