"""The headers of csrc/math, compiled alone, against torch."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def half_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("cpp") / "half_table"
    source = ROOT / "tests" / "cpp" / "half_table.cpp"
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-std=c++17", "-O2", "-I", ROOT / "csrc", "-o", program, source]
    subprocess.run(command, check=True)
    return program


def interesting_floats() -> np.ndarray:
    """Random bit patterns, every float16 and its neighbours, and the midpoints between two."""
    random = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint64)
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    around = halves.view(np.uint32).astype(np.uint64)
    middles = [
        around + offset for offset in (0, 1, 0xFFFFFFFF, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000)
    ]
    return (np.concatenate([random, *middles]) % 2**32).astype(np.uint32)


def assert_same_floats(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Bitwise equal, except that any NaN equals any NaN."""
    assert torch.equal(actual.isnan(), expected.isnan())
    keep = ~expected.isnan()
    assert torch.equal(actual[keep].view(torch.int8), expected[keep].view(torch.int8))


def test_half_conversions_equal_torch(half_table: Path) -> None:
    bits = interesting_floats()
    out = subprocess.run([half_table], input=bits.tobytes(), check=True, capture_output=True).stdout
    widened = np.frombuffer(out[: 65536 * 8], dtype=np.float32).reshape(-1, 2).copy()
    rounded = np.frombuffer(out[65536 * 8 :], dtype=np.int16).reshape(-1, 2).copy()
    every = torch.arange(65536).to(torch.int32).to(torch.int16)
    floats = torch.from_numpy(bits.view(np.float32).copy())
    for column, dtype in enumerate((torch.float16, torch.bfloat16)):
        assert_same_floats(torch.from_numpy(widened[:, column].copy()), every.view(dtype).float())
        narrow = torch.from_numpy(rounded[:, column].copy()).view(dtype)
        assert_same_floats(narrow, floats.to(dtype))
