"""Every way to call an operator that is verified: what it takes, and what its errors are of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Generator

from sslkern.verification import inputs, terms
from sslkern.verification.terms import LARGEST_LOGIT_APART, Case, Terms, Values


@dataclass(frozen=True)
class Parameter:
    """The temperature of an operator or its like, which is an input with a gradient."""

    name: str
    of: Callable[[float], float] = lambda temperature: temperature
    """Temperature -> the value that makes logits as large."""
    is_number: bool = False
    """Whether it is given as a number, and has no gradient."""


TEMPERATURE = Parameter("temperature")
STUDENT_TEMPERATURE = Parameter("student_temperature")
LOGIT_SCALE = Parameter("logit_scale", lambda temperature: 1 / temperature)
EXPONENT = Parameter("t", lambda temperature: 0.5 / temperature)
EPSILON = Parameter("epsilon", is_number=True)
TEMPERATURE_OF_CROPS = Parameter("temperature", is_number=True)


@dataclass(frozen=True)
class Form:
    """A way to call an operator, with a table of its own."""

    function: str
    """Its name in `sslkern` and in `sslkern.reference`."""
    about: str
    inputs: Callable[[int, int, Generator], Values]
    """N, D, generator -> tensors in float64, of norm about 1 where a temperature scales them."""
    terms: Callable[[Case], Terms]
    parameter: Parameter | None = TEMPERATURE
    normalizes: bool = False
    """Whether there is an option ``normalize``."""
    constants: tuple[str, ...] = ()
    """Floating inputs without a gradient; integers have none anyway."""
    options: dict[str, Any] = field(default_factory=lambda: {"reduction": "none"})
    result: str = "loss"
    arguments: Callable[[Values], dict[str, Any]] = dict
    """Tensors by name -> the operator's arguments."""

    @property
    def op(self) -> str:
        """As in the titles of the tables and for ``--op``."""
        return self.function.removesuffix("_loss")

    @property
    def name(self) -> str:
        """As in the title of its table."""
        return f"{self.op}, {self.about}" if self.about else self.op


def _supcon(variant: str) -> Form:
    pairs = 2 if variant == "pairwise" else 1
    sizes = _contrast("z", pairs=pairs, largest=LARGEST_LOGIT_APART)
    options = {"reduction": "none", "variant": variant}
    return Form(
        "supcon_loss", variant, inputs.classes_of_three, sizes, normalizes=True, options=options
    )


def _contrast(*names: str, **options: Any) -> Callable[[Case], Terms]:
    return lambda case: terms.contrast(case, *names, **options)


def _whole(*names: str, loss: float = 1.0) -> Callable[[Case], Terms]:
    return lambda case: terms.whole_batch(case, *names, loss=loss)


def _lists(x: Values) -> dict[str, Any]:
    """``high_res_0``, ``high_res_1`` and so on, as lists without the numbers."""
    lists: dict[str, Any] = {}
    for name, tensor in x.items():
        lists.setdefault(name.rpartition("_")[0], []).append(tensor)
    return lists


def sinkhorn_form(
    about: str,
    make: Callable[[int, int, Generator], Values],
    names: tuple[str, ...] = (),
    **options: Any,
) -> Form:
    """Of a plan; ``names`` are the constants beside the scores."""
    return Form(
        "sinkhorn",
        about,
        make,
        terms.sinkhorn,
        EPSILON,
        constants=("scores", *names),
        options=options,
        result="plan",
    )


_MEAN = {"reduction": "mean"}
_EACH = {"reduction": "none"}

FORMS = (
    Form("ntxent_loss", "", inputs.views_of_half, _contrast("z_a", "z_b"), normalizes=True),
    Form("info_nce_loss", "", inputs.query_key, _contrast("query", "key"), normalizes=True),
    Form(
        "info_nce_loss",
        "symmetric",
        inputs.query_key,
        _contrast("query", "key"),
        normalizes=True,
        options=_EACH | {"symmetric": True},
    ),
    Form(
        "info_nce_loss",
        "negatives",
        inputs.with_negatives,
        _contrast("query", "key", "negatives"),
        normalizes=True,
    ),
    Form(
        "info_nce_loss",
        "queue",
        inputs.with_negatives,
        _contrast("query", "key", "negatives"),
        normalizes=True,
        constants=("key", "negatives"),
    ),
    Form(
        "clip_loss",
        "",
        inputs.images_and_texts,
        _contrast("image_features", "text_features"),
        LOGIT_SCALE,
        options={},
    ),
    Form("siglip_loss", "", inputs.with_bias, terms.siglip, LOGIT_SCALE),
    Form("siglip_loss", "mean", inputs.with_bias, terms.siglip, LOGIT_SCALE, options=_MEAN),
    Form(
        "siglip_loss",
        "negatives only",
        inputs.with_bias,
        partial(terms.siglip, positives=False),
        LOGIT_SCALE,
        options=_MEAN | {"negative_only": True},
    ),
    *(_supcon(variant) for variant in ("out", "in", "in_sum", "pairwise")),
    Form(
        "dcl_loss",
        "",
        inputs.views,
        _contrast("z_a", "z_b", largest=LARGEST_LOGIT_APART),
        normalizes=True,
    ),
    Form("uniformity", "", inputs.points, terms.uniformity, EXPONENT, options={}, result="value"),
    Form("linear_cross_entropy", "", inputs.vocabulary, terms.linear_cross_entropy, None),
    Form(
        "linear_cross_entropy",
        "mean",
        inputs.vocabulary,
        partial(terms.linear_cross_entropy, mean=True),
        None,
        options=_MEAN,
    ),
    Form(
        "linear_cross_entropy",
        "probabilities",
        inputs.vocabulary_of_probabilities,
        terms.linear_cross_entropy,
        None,
        constants=("target",),
    ),
    Form(
        "linear_cross_entropy",
        "softcap",
        inputs.vocabulary,
        terms.linear_cross_entropy,
        None,
        options=_EACH | {"softcap": 5.0},
    ),
    Form(
        "soft_cross_entropy",
        "center",
        inputs.scores,
        terms.soft_cross_entropy,
        STUDENT_TEMPERATURE,
        constants=("teacher", "center"),
    ),
    Form(
        "soft_cross_entropy",
        "probabilities",
        inputs.probabilities,
        partial(terms.soft_cross_entropy, mass=max(inputs.MASSES)),
        STUDENT_TEMPERATURE,
        constants=("teacher",),
        options=_EACH | {"from_probabilities": True},
    ),
    Form(
        "ressl_loss",
        "",
        inputs.with_queue,
        partial(terms.ressl, teacher_temperature=0.04),
        STUDENT_TEMPERATURE,
        normalizes=True,
        constants=("key", "queue"),
        options=_EACH | {"teacher_temperature": 0.04},
    ),
    Form(
        "sampled_logits", "", inputs.table, terms.sampled_logits, None, options={}, result="logits"
    ),
    Form("negative_sampling_loss", "", inputs.samples, terms.samples, None),
    Form("sampled_nce_loss", "", inputs.with_normalizer, terms.samples),
    Form("sampled_nce_loss", "estimated normalizer", inputs.samples, terms.samples),
    *(
        Form(
            "mmcr_loss",
            about,
            inputs.three_views,
            _whole("views"),
            None,
            normalizes=True,
            options=options,
        )
        for about, options in (("", {}), ("samples", {"lmda": 0.5}))
    ),
    Form("frossl_loss", "", inputs.three_views, _whole("views", loss=10.0), None, options={}),
    Form("koleo_loss", "", inputs.rows, _whole("z"), None, options={}),
    *(
        Form(
            "tico_loss",
            about,
            inputs.views_and_covariance,
            _whole("z_a", "z_b"),
            None,
            constants=("state",),
            options=options,
        )
        for about, options in (
            ("", {}),
            ("differentiated covariance", {"differentiate_covariance": True}),
        )
    ),
    Form("wmse_loss", "", inputs.views_to_whiten, _whole("z_a", "z_b"), None, options={}),
    Form(
        "barlow_twins_loss",
        "",
        inputs.views,
        partial(terms.barlow_twins, weight=0.005),
        None,
        options={},
    ),
    *(
        Form("vicreg_loss", variant, inputs.views, terms.exact, None, options={"variant": variant})
        for variant in ("official", "solo", "vibcreg")
    ),
    Form("variance_loss", "", inputs.view, terms.exact, None, options={}),
    Form("covariance_loss", "", inputs.view, terms.columns, None, options={}),
    Form(
        "covariance_loss",
        "normalized columns",
        inputs.view,
        partial(terms.columns, normalize=True),
        None,
        options={"normalize_columns": True},
    ),
    Form("invariance_loss", "", inputs.views, terms.exact, None, options={}),
    sinkhorn_form("", inputs.assigned),
    sinkhorn_form("queue", inputs.assigned_with_queue, ("queue",)),
    sinkhorn_form("shares", inputs.assigned_with_shares, ("prototype_marginal", "row_weight")),
    Form(
        "sinkhorn",
        "probabilities",
        inputs.assigned_probabilities,
        partial(terms.sinkhorn, from_probabilities=True),
        None,
        constants=("scores",),
        options={"from_probabilities": True},
        result="plan",
    ),
    Form(
        "swav_loss",
        "",
        inputs.crops,
        terms.swapped_prediction,
        TEMPERATURE_OF_CROPS,
        options={},
        arguments=_lists,
    ),
    Form(
        "swav_loss",
        "queue",
        inputs.crops_with_queue,
        terms.swapped_prediction,
        TEMPERATURE_OF_CROPS,
        constants=("queue_0", "queue_1"),
        options={},
        arguments=_lists,
    ),
)
"""In the order of their tables."""
