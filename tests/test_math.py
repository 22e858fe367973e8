"""Headers of csrc, compiled alone: csrc/math against torch, polynomials against numpy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import sslkern

ROOT = Path(__file__).parents[1]

ISA_FLAGS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
}


def compile_program(name: str, folder: Path, *flags: str) -> Path:
    """The program tests/cpp/<name>.cpp, compiled into ``folder``."""
    program = folder / name
    source = ROOT / "tests" / "cpp" / f"{name}.cpp"
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-O2", *flags, "-I", ROOT / "csrc", "-o", program, source]
    subprocess.run(command, check=True)
    return program


@pytest.fixture(scope="module")
def half_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program("half_table", tmp_path_factory.mktemp("cpp"), "-std=c++17")


@pytest.fixture(scope="module", params=ISA_FLAGS)
def isa(request: pytest.FixtureRequest) -> str:
    """Every instruction set that this processor runs."""
    name: str = request.param
    if name not in sslkern.build_config()["available_instruction_sets"]:
        pytest.skip(f"this processor or build has no {name}")
    return name


@pytest.fixture(scope="module")
def log1p_table(isa: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(
        "log1p_table", tmp_path_factory.mktemp("cpp"), "-std=c++20", *ISA_FLAGS[isa]
    )


@pytest.fixture(scope="module")
def log2_table(isa: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(
        "log2_table", tmp_path_factory.mktemp("cpp"), "-std=c++20", *ISA_FLAGS[isa]
    )


@pytest.fixture(scope="module")
def tanh_table(isa: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(
        "tanh_table",
        tmp_path_factory.mktemp("cpp"),
        "-std=c++20",
        "-fno-trapping-math",
        *ISA_FLAGS[isa],
    )


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


def run_table(table: Path, x: np.ndarray) -> np.ndarray:
    name = "float" if x.dtype == np.float32 else "double"
    done = subprocess.run([table, name], input=x.tobytes(), check=True, capture_output=True)
    return np.frombuffer(done.stdout, dtype=x.dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log1p_is_accurate_to_the_last_bits(log1p_table: Path, dtype: type[np.floating]) -> None:
    """Relative to the result, however small: many tiny terms are what a SigLIP loss is made of."""
    random = np.random.default_rng(0)
    small = np.exp2(-random.uniform(0, 120, 200_000))
    e = np.concatenate([np.linspace(0, 1, 200_001)[1:], small]).astype(dtype)
    exact = np.log1p(e.astype(np.longdouble)) / np.log(np.longdouble(2))
    error = np.abs(run_table(log1p_table, e) - exact) / exact
    assert error.max() < 2 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log1p_keeps_zero_and_nan(log1p_table: Path, dtype: type[np.floating]) -> None:
    zero, nan = run_table(log1p_table, np.array([0, np.nan], dtype=dtype))
    assert zero == 0
    assert np.isnan(nan)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log2_is_accurate_to_its_size_or_one(log2_table: Path, dtype: type[np.floating]) -> None:
    """Over all normal numbers, around powers of two and around one."""
    random = np.random.default_rng(0)
    info = np.finfo(dtype)
    any_size = np.exp2(random.uniform(info.minexp, info.maxexp, 200_000).astype(np.longdouble))
    powers = np.exp2(np.arange(info.minexp, info.maxexp, dtype=np.longdouble)).astype(dtype)
    around = [powers, np.nextafter(powers[1:], 0), np.nextafter(powers, dtype(np.inf))]
    near_one = 1 + random.uniform(-0.1, 0.1, 100_000)
    x = np.concatenate([any_size, *around, near_one, [info.tiny, info.max]]).astype(dtype)
    x = x[np.isfinite(x) & (x >= info.tiny)]
    exact = np.log2(x.astype(np.longdouble))
    error = np.abs(run_table(log2_table, x) - exact) / np.maximum(np.abs(exact), 1)
    assert error.max() < 2 * info.eps
    np.testing.assert_array_equal(run_table(log2_table, powers), np.log2(powers))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log2_of_zero_is_the_least_and_of_what_has_none_nan(
    log2_table: Path, dtype: type[np.floating]
) -> None:
    zeros = run_table(log2_table, np.array([0.0, -0.0], dtype=dtype))
    assert np.isfinite(zeros).all()
    assert zeros.max() < np.log2(np.finfo(dtype).tiny)
    none = np.array([np.inf, -np.inf, np.nan, -1.0, -1e-30], dtype=dtype)
    assert np.isnan(run_table(log2_table, none)).all()


def tanh_arguments(dtype: type[np.floating]) -> np.ndarray:
    """Any magnitude, the middle, and around the change of method at 0.63; both signs."""
    random = np.random.default_rng(0)
    parts = [10 ** random.uniform(-30, 3, 100_000), random.uniform(0, 2, 100_000)]
    magnitudes = np.concatenate([*parts, random.uniform(0.62, 0.64, 50_000)])
    return np.concatenate([magnitudes, -magnitudes]).astype(dtype)


def run_tanh(program: Path, u: np.ndarray) -> np.ndarray:
    command = [program, "double" if u.dtype == np.float64 else "float"]
    done = subprocess.run(command, input=u.tobytes(), check=True, capture_output=True)
    return np.frombuffer(done.stdout, dtype=u.dtype)


def test_tanh_is_as_good_as_its_dtype(tanh_table: Path) -> None:
    for dtype in (np.float32, np.float64):
        u = tanh_arguments(dtype)
        actual, expected = run_tanh(tanh_table, u), np.tanh(u.astype(np.longdouble))
        error = np.abs(actual - expected) / np.abs(expected)
        assert error.max() < 2 * np.finfo(dtype).eps
        assert np.abs(actual).max() == 1
        ends = np.array([0, np.inf, -np.inf, 1e30, -1e30, np.nan], dtype=dtype)
        np.testing.assert_array_equal(run_tanh(tanh_table, ends), np.tanh(ends))
