"""The package as a whole: instruction sets, examples in docstrings, import errors."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import pkgutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sslkern
from sslkern.ops import _extension

ISAS = ["portable", "avx2", "avx512"]


def modules() -> list[str]:
    found = pkgutil.walk_packages(sslkern.__path__, "sslkern.")
    libraries = ("._C", ".libsslkern_cuda", ".__main__")
    return [m.name for m in found if not m.name.endswith(libraries)]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_public_function_has_an_example() -> None:
    for name in sslkern.__all__:
        value = getattr(sslkern, name)
        if callable(value):
            assert ">>> " in (value.__doc__ or ""), name


RESULT = """
import torch, sslkern
torch.manual_seed(0)
z = torch.randn(2, 150, 40)
print(sslkern.build_config()["active_instruction_set"])
for dtype in (torch.float64, torch.float32, torch.bfloat16):
    for temperature in (0.1, 0.01):
        a = z[0].to(dtype).requires_grad_()
        loss = sslkern.ntxent_loss(a, z[1].to(dtype), temperature)
        loss.backward()
        exact = z[0].to(dtype).double().requires_grad_()
        reference = sslkern.reference.ntxent_loss(exact, z[1].to(dtype).double(), temperature)
        reference.backward()
        torch.testing.assert_close(loss.double(), reference, rtol=1e-5, atol=1e-5)
        tolerance = 1e-10 if dtype == torch.float64 else 1e-2 if dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(
            a.grad.double(), exact.grad, rtol=tolerance, atol=tolerance * exact.grad.abs().max()
        )
"""


def run_with_isa(isa: str) -> str:
    environment = {**os.environ, "SSLKERN_ISA": isa}
    command = [sys.executable, "-c", RESULT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_gives_the_reference(isa: str) -> None:
    available = sslkern.build_config()["available_instruction_sets"]
    assert isinstance(available, list)
    if isa not in available:
        pytest.skip(f"this processor or build has no {isa}")
    assert run_with_isa(isa) == isa


def test_unknown_instruction_set_falls_back_to_the_best() -> None:
    assert run_with_isa("sse9") in ISAS


def test_build_config_names_what_runs() -> None:
    config = sslkern.build_config()
    assert config["version"] == sslkern.__version__
    assert config["active_instruction_set"] in ISAS
    assert str(config["torch"]).split(".")[:2] == torch.__version__.split(".")[:2]


def test_another_torch_is_refused_and_both_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ops").mkdir()
    (tmp_path / "_build_info.json").write_text(json.dumps({"torch": "1.0.1", "python": "3.11"}))
    monkeypatch.setattr(_extension, "__file__", str(tmp_path / "ops" / "_extension.py"))
    with pytest.raises(ImportError, match=r"expected torch 1\.0 .* got torch 2\."):
        _extension.load()


def test_missing_build_is_refused_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_extension, "__file__", str(tmp_path / "ops" / "_extension.py"))
    with pytest.raises(ImportError, match=r"pip install"):
        _extension.load()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fma_peak_is_positive(dtype: torch.dtype) -> None:
    assert sslkern.fma_peak(dtype, threads=1) > 0


def test_fma_peak_refuses_other_dtypes() -> None:
    with pytest.raises(TypeError, match=r"got torch\.int64"):
        sslkern.fma_peak(torch.int64)


# ---- what an import does

FIRST_USE = """
import sys
import sslkern
heavy = {"bench", "cli", "data", "integrations", "losses", "methods", "model", "train"}
heavy |= {"verification", "accuracy"}
loaded = {name.split(".")[1] for name in sys.modules if name.startswith("sslkern.")}
assert not heavy & loaded, heavy & loaded
assert {*sslkern.__all__, "methods"} <= set(dir(sslkern))
assert not hasattr(sslkern, "nothing")
import torch
assert torch.ops.sslkern.ntxent_fwd.default
assert sslkern.losses.NTXentLoss(0.1) and sslkern.methods.Queue
names = {}
exec("from sslkern import *", names)
assert set(sslkern.__all__) <= set(names)
assert names["losses"] is sys.modules["sslkern.losses"]
"""

# 50 ms where torch takes 0.8 s of a core, warm: the least seen of torch 2.13. Slower machines take
# longer for both.
IMPORT_SHARE = 0.05 / 0.8
IMPORT = """
from time import process_time
start = process_time()
import torch
torch_is_there = process_time()
import sslkern
print((process_time() - torch_is_there) / (torch_is_there - start))
"""


def in_a_process(program: str) -> str:
    """What a program prints that may keep compiled Python files, as an installation has them."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_import_loads_the_operators_and_names_the_rest() -> None:
    in_a_process(FIRST_USE)


def test_an_import_takes_little_beside_that_of_torch() -> None:
    """Time of this process alone: others on the machine make real time vary tenfold."""
    in_a_process(IMPORT)
    shares = [float(in_a_process(IMPORT)) for _ in range(5)]
    assert statistics.median(shares) < IMPORT_SHARE, shares
