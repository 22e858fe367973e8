"""CUDA kernels in several schedules of their threads and blocks, on sizes that fill no tile.

What a GPU leaves undefined, the emulation draws from a seed: a result that depends on it is no
result. On `asan` (`tests/run_asan.sh`) the same under AddressSanitizer and UBSan.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import cycle
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
SIZE = (133, 19)

COMPOSED = {"mmcr_loss", "frossl_loss", "koleo_loss", "tico_loss", "wmse_loss", "invariance_loss"}
"""Of PyTorch's own operators."""

CASES = [
    pytest.param(form, dtype, id=f"{form.name}-{str(dtype).removeprefix('torch.')}")
    for form, dtype in zip(
        (form for form in FORMS if form.function not in COMPOSED),
        cycle([torch.bfloat16, torch.float32, torch.float64, torch.float16]),
        strict=False,
    )
]


@pytest.mark.parametrize(("form", "dtype"), CASES)
def test_results_are_bitwise_the_same_in_any_schedule(
    form: Form, dtype: torch.dtype, backend: str
) -> None:
    setting = next(verify.settings(form, [dtype]))
    inputs = verify._inputs(setting, SIZE, torch.get_default_device())
    fused = getattr(sslkern, form.function)
    library = emulation.library(backend) if backend in emulation.NAMES else None
    expected = verify._evaluate(fused, inputs, setting)
    assert library is None or library.threads() > 0
    for schedule in SCHEDULES:
        if library is not None:
            library.schedule(*schedule)
        found = verify._evaluate(fused, inputs, setting)
        for name, value in expected.items():
            assert torch.equal(found[name], value), f"{name}, schedule {schedule}"


def test_sanitizers_find_nothing() -> None:
    """The same in a process of its own, which AddressSanitizer and UBSan have to start with."""
    reason = emulation.missing("asan")
    if reason is not None:
        pytest.skip(reason)
    command = [Path(__file__).with_name("run_asan.sh"), __file__, "-q", "-k", "bfloat16"]
    environment = {name: x for name, x in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTHON"] = sys.executable
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
