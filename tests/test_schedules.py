"""CUDA kernels in several schedules of their threads and blocks, on sizes that fill no tile.

What a GPU leaves undefined, the emulation draws from a seed: a result that depends on it is no
result. Each form is called in one dtype, size and setting, which change from form to form. On
`asan` (`tests/run_asan.sh`) the same under AddressSanitizer and UBSan, mostly in smaller sizes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import emulation
import pytest
import torch

import sslkern
from sslkern.cli import verify
from sslkern.verification.forms import FORMS, Form

BACKENDS = ("simt", "asan", "cuda")

# A seed and the number of an order of csrc/platform/simt/runtime.h: random, then forward,
# reverse and warp by warp.
SCHEDULES = [(2, 0), (1, 1), (1, 2), (1, 3)]  # and that of the test

# Of a tile and a bit, of one or two (in float64 tiles have half as many rows), of few long rows.
SIZES = [(133, 19), (70, 40), (9, 130)]

# Sanitizers take their time for each tile: most forms have less than one.
SMALL = (20, 19)
LARGER_UNDER_ASAN = {
    (133, 19): (
        *("ntxent", "clip", "siglip, mean", "linear_cross_entropy, mean", "vicreg, solo"),
        *("soft_cross_entropy, probabilities", "sinkhorn"),
    ),
    (70, 40): (
        *("info_nce, symmetric", "info_nce, queue", "supcon, in", "uniformity", "sampled_logits"),
        *("linear_cross_entropy, softcap", "barlow_twins", "vicreg, official"),
        *("covariance, normalized columns", "sinkhorn, queue"),
    ),
    (9, 130): (
        *("supcon, pairwise", "soft_cross_entropy, center", "negative_sampling", "covariance"),
        *("vicreg, vibcreg", "sinkhorn, shares", "swav"),
    ),
}

COMPOSED = {"mmcr_loss", "frossl_loss", "koleo_loss", "tico_loss", "wmse_loss", "invariance_loss"}
"""Of PyTorch's own operators."""

LAUNCHING = [form for form in FORMS if form.function not in COMPOSED]
DTYPES = (torch.bfloat16, torch.float32, torch.float64, torch.float16)


def under_asan(form: Form) -> tuple[int, int]:
    return next((size for size, names in LARGER_UNDER_ASAN.items() if form.name in names), SMALL)


@dataclass(frozen=True)
class Case:
    """One call of a form: dtypes, sizes and settings go round, so that all of them occur."""

    setting: verify.Setting
    size: tuple[int, int]

    @staticmethod
    def of(form: Form, number: int) -> Case:
        settings = list(verify.settings(form, [DTYPES[number % len(DTYPES)]]))
        return Case(settings[number % len(settings)], SIZES[number % len(SIZES)])

    @property
    def name(self) -> str:
        return f"{self.setting.form.name}-{str(self.setting.dtype).removeprefix('torch.')}"


CASES = [Case.of(form, number) for number, form in enumerate(LAUNCHING)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_results_are_bitwise_the_same_in_any_schedule(case: Case, backend: str) -> None:
    setting = case.setting
    size = under_asan(setting.form) if backend == "asan" else case.size
    inputs = verify._inputs(setting, size, torch.get_default_device())
    fused = getattr(sslkern, setting.form.function)
    library = emulation.library(backend) if backend in emulation.NAMES else None
    expected = verify._evaluate(fused, inputs, setting)
    assert library is None or library.threads() > 0
    for schedule in SCHEDULES:
        if library is not None:
            library.schedule(*schedule)
        found = verify._evaluate(fused, inputs, setting)
        for name, value in expected.items():
            assert torch.equal(found[name], value), f"{name}, schedule {schedule}"


def test_larger_sizes_are_of_forms() -> None:
    named = [name for names in LARGER_UNDER_ASAN.values() for name in names]
    assert len(named) == len({form.name for form in LAUNCHING}.intersection(named))


def test_sanitizers_find_nothing(pytestconfig: pytest.Config) -> None:
    """The same in a process of its own, which AddressSanitizer and UBSan have to start with."""
    if "asan" in pytestconfig.option.backends.split(","):
        pytest.skip("this is that process")
    reason = emulation.missing("asan")
    if reason is not None:
        pytest.skip(reason)
    test = f"{__file__}::{test_results_are_bitwise_the_same_in_any_schedule.__name__}"
    command = [Path(__file__).with_name("run_asan.sh"), test, "-q"]
    environment = {name: x for name, x in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTHON"] = sys.executable
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"\n{len(CASES)} passed" in done.stdout
