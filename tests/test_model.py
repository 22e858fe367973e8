"""The roofline model: what it counts of kernels that walk, its fits, and the command."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import simt_build
import torch

from sslkern.bench import CASES, composed
from sslkern.bench.contenders import Size
from sslkern.cli.errors import UserError
from sslkern.cli.main import main
from sslkern.cli.model import OPS as OPS_OF_COMMAND
from sslkern.model import emulation, walking
from sslkern.model.counts import (
    Counts,
    counts_of,
    matrix_flop,
    sector_efficiency,
    short_name,
    total,
)
from sslkern.model.fit import CHECK, SMALL, Walk, fit
from sslkern.model.gpus import GPUS
from sslkern.model.operators import OPERATORS
from sslkern.model.roofline import predict
from sslkern.model.runs import Run
from sslkern.model.walking import TILE, Fits, Walking, run_walk
from sslkern.model.whole import WHOLE, Whole
from sslkern.model.work import PASSES, Work, kernel_rate, library_rate, product_rate
from sslkern.ops._extension import C

OPS: dict[str, Walking] = {op.name: op for op in walking.WALKING}
NTXENT = OPS["ntxent"]
DIM = 128
FIT_DIM = 64  # a chunk: the least that walks
KERNELS = {
    "ntxent": {"forward": "ntxent_fwd_kernel", "backward": "ntxent_tiles_kernel"},
    "info_nce": {"forward": "info_nce_fwd_kernel", "backward": "info_nce_tiles_kernel"},
    "clip": {"forward": "info_nce_fwd_kernel", "backward": "info_nce_tiles_kernel"},
    "siglip": {"forward": "siglip_tiles_kernel"},  # which forms the gradients as well
    "supcon": {"forward": "supcon_negatives_kernel", "backward": "supcon_tiles_kernel"},
    "linear_cross_entropy": {
        "forward": "linear_cross_entropy_fwd_kernel",
        "backward": "linear_cross_entropy_tiles_kernel",
    },
}
BYTES = 2  # of an element
LARGE = Size(32768, DIM)
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "model"

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None or shutil.which(simt_build.compiler()) is None,
    reason="needs nvcc and a C++ compiler",
)


@pytest.fixture(scope="module")
def library() -> Iterator[Any]:
    gpu = GPUS["h100"]
    found = emulation.library(gpu.shared_bytes)
    yield found
    found.shared_bytes(99 << 10)


@pytest.fixture(scope="module")
def fits(library: Any) -> Fits:
    return walking.fits(library, NTXENT, FIT_DIM, torch.bfloat16)


# ---- the kernels, counted

TILES, SPLITS = 4, 2
ROWS = TILES * TILE


@dataclass(frozen=True)
class Walked:
    """The kernel of a pass that walks along tiles."""

    op: str
    part: str
    run: Run

    @property
    def writes_gradients(self) -> bool:
        """Whether it writes every element of G."""
        return self.part == "backward" or OPS[self.op].formed

    @property
    def counts(self) -> Counts:
        return self.run.kernels[self.part][KERNELS[self.op][self.part]]

    @property
    def lines(self) -> list[dict[str, Any]]:
        name = KERNELS[self.op][self.part]
        return [x for x in self.run.lines if short_name(x["kernel"]) == name]


@pytest.fixture(scope="module")
def small(library: Any) -> Callable[[str], Run]:
    """Of an operator, which runs once."""
    walk = Walk(TILES, SPLITS)
    return cache(lambda op: run_walk(library, OPS[op], walk, DIM, torch.bfloat16).run)


@pytest.fixture(params=[(op, part) for op in KERNELS for part in KERNELS[op]], ids="-".join)
def walked(small: Callable[[str], Run], request: pytest.FixtureRequest) -> Walked:
    op, part = request.param
    return Walked(op, part, small(op))


@needs_nvcc
def test_products_are_what_the_formula_asks_for(walked: Walked) -> None:
    assert matrix_flop(walked.counts) == {"bf16": 2 * ROWS * ROWS * DIM}


@needs_nvcc
@pytest.mark.parametrize("op", KERNELS)
def test_library_products_are_what_the_formula_asks_for(
    small: Callable[[str], Run], op: str
) -> None:
    flop = OPS[op].gradients * 2 * ROWS * ROWS * DIM
    formed = OPS[op].formed
    assert small(op).product_flop == {"forward": flop * formed, "backward": flop * (not formed)}


@needs_nvcc
def test_main_loops_have_no_bank_conflicts(walked: Walked) -> None:
    """Copies into shared memory and ldmatrix; sums that a block writes at its end are no loop."""
    assert {"ldmatrix", "copy"} <= {x["class"] for x in walked.lines if "shared" in x}
    in_loop = [x for x in walked.lines if x["class"] in ("ldmatrix", "copy")]
    assert not [x["text"] for x in in_loop if x["shared"]["conflicts"] > 0]


@needs_nvcc
def test_sectors_hold_what_was_asked_for(walked: Walked, library: Any) -> None:
    """Of SupCon in many tiles: those on the diagonal read more, and are a quarter of few."""
    counts = walked.counts
    if walked.op == "supcon":
        kernel = KERNELS[walked.op][walked.part]
        found = walking.fits(library, OPS["supcon"], DIM, torch.bfloat16).kernels[walked.part]
        assert found[kernel].error == 0
        counts = found[kernel].at(OPS["supcon"].walk(walked.part, LARGE, torch.bfloat16))
    assert sector_efficiency(counts) >= 0.95


@needs_nvcc
def test_global_memory_is_read_little_beyond_the_tiles(walked: Walked) -> None:
    """A block's tile of A once and each tile of B; and every element of G, where it is written."""
    least = (TILES * SPLITS + TILES * TILES) * TILE * DIM * BYTES
    if walked.writes_gradients:
        least += ROWS * ROWS * BYTES
    asked = 32 * total(walked.counts, "sectors")
    assert least <= asked <= 1.5 * least


@needs_nvcc
def test_exponentials_are_one_per_element(walked: Walked) -> None:
    """And one per row of a lane and tile forward.

    Backward two in the tiles that hold the diagonal or partners; of SigLIP a reciprocal everywhere.
    """
    elements = 32 * walked.counts["issued function"]
    assert ROWS * ROWS <= elements <= 2 * ROWS * ROWS


# ---- fits


@needs_nvcc
@pytest.mark.parametrize("name", PASSES)
def test_counts_of_walks_are_exact(fits: Fits, name: str) -> None:
    assert fits.kernels[name][KERNELS["ntxent"][name]].error == 0


@needs_nvcc
def test_counts_of_the_librarys_products_are_exact(fits: Fits) -> None:
    assert fits.product_flop["backward"].error == 0
    found = fits.product_flop["backward"].at(Walk(256, 1))["flop"]
    assert found == pytest.approx(2 * 32768**2 * FIT_DIM, rel=1e-12)


@needs_nvcc
def test_fits_predict_what_the_operator_does_by_itself(library: Any, fits: Fits) -> None:
    """At a size whose number of splits nobody has set."""
    size = Size(3 * NTXENT.step, FIT_DIM)
    z_a, z_b = NTXENT.make_inputs(size, torch.bfloat16)
    library.start()
    library.count(True)
    try:
        NTXENT.loss(z_a, z_b)
        counts = counts_of(library.counts())["ntxent_fwd_kernel"]
    finally:
        library.count(False)
        library.stop()
    assert not library.findings()
    walk = NTXENT.walk("forward", size, torch.bfloat16)
    assert walk == Walk(6, 6)
    found = fits.kernels["forward"]["ntxent_fwd_kernel"].at(walk)
    assert set(counts) <= set(found)
    for key, value in found.items():
        assert value == pytest.approx(counts.get(key, 0), abs=1e-6), key


def counted(walk: Walk) -> Counts:
    """A count that has every term."""
    factors = (11, 3, 5, 2, 7, 13, 17, 19)
    return {"x": sum(f * term for f, term in zip(factors, walk.terms, strict=True))}


def test_a_fit_that_is_off_gives_no_less_than_was_counted() -> None:
    def once_more(walk: Walk) -> Counts:
        return {"x": 100.0 - walk.tiles**3 if walk.tiles < CHECK.tiles else 100.0}

    found = fit([(walk, once_more(walk)) for walk in SMALL], (CHECK, once_more(CHECK)))
    assert found.at(Walk(256, 1))["x"] == 100
    assert found.at(SMALL[0])["x"] == pytest.approx(36)


def test_fits_of_all_terms_are_exact() -> None:
    found = fit([(walk, counted(walk)) for walk in SMALL], (CHECK, counted(CHECK)))
    assert found.error == 0
    large = Walk(256, 128, launches=32)
    assert found.at(large)["x"] == pytest.approx(counted(large)["x"], rel=1e-12)


def test_fits_say_how_far_off_they_are() -> None:
    def cubic(walk: Walk) -> Counts:
        return {"x": walk.tiles**3}

    found = fit([(walk, cubic(walk)) for walk in SMALL], (CHECK, cubic(CHECK)))
    assert found.error > 0.01


@needs_nvcc
def test_gradients_that_are_formed_leave_nothing_to_the_backward_pass(library: Any) -> None:
    run = run_walk(library, OPS["siglip"], Walk(2, 1), FIT_DIM, torch.bfloat16).run
    assert "siglip_tiles_kernel" in run.kernels["forward"]
    assert run.product_flop["forward"] == 2 * 2 * (2 * TILE) ** 2 * FIT_DIM
    assert not run.kernels["backward"]


def test_large_gradients_are_launched_in_parts() -> None:
    assert NTXENT.walk("backward", LARGE, torch.bfloat16) == Walk(256, 128, launches=32)
    assert NTXENT.walk("forward", LARGE, torch.bfloat16) == Walk(256, 4)


@needs_nvcc
def test_fits_predict_what_is_launched_in_parts(library: Any, fits: Fits) -> None:
    """Each launch has all columns in its sectors; the forward pass knows nothing of parts."""
    found = run_walk(library, NTXENT, Walk(12, 4, 3), FIT_DIM, torch.bfloat16)
    assert found.walks == {"forward": Walk(12, 4), "backward": Walk(12, 4, 3)}
    for part, name in KERNELS["ntxent"].items():
        counts = found.run.kernels[part][name]
        assert counts["launches"] == found.walks[part].launches
        predicted = fits.kernels[part][name].at(found.walks[part])
        assert predicted == pytest.approx(dict(counts), rel=1e-9)
    at_once = run_walk(library, NTXENT, Walk(12, 4), FIT_DIM, torch.bfloat16)
    in_parts, whole_matrix = (
        x.run.kernels["backward"]["ntxent_tiles_kernel"]["distinct read"] for x in (found, at_once)
    )
    assert 2.5 * whole_matrix < in_parts < 3 * whole_matrix


def test_parts_of_many_columns_have_rows_enough_to_hide_the_columns_gradient() -> None:
    vocabulary = 1 << 18
    assert C.gradient_rows(8192, vocabulary, 4096, 2, adds=True) == 1024
    assert C.gradient_rows(8192, vocabulary, 4096, 2, adds=False) == 256
    assert C.gradient_rows(8192, vocabulary, 192, 2, adds=True) == 384  # as many bytes as that has
    assert C.gradient_rows(8192, vocabulary, 16, 2, adds=True) == 128
    assert C.gradient_rows(512, vocabulary, 4096, 2, adds=True) == 512
    assert C.gradient_rows(8192, 8192, 4096, 2, adds=False) == 4096  # 64 MiB


def test_sums_of_many_columns_are_launched_in_parts() -> None:
    assert OPS["clip"].walk("forward", LARGE, torch.bfloat16) == Walk(256, 8, launches=2)


# ---- operators that are counted whole

SMALL_SIZES = {
    "sinkhorn": Size(64, 600),
    "swav": Size(64, 600),
    "soft_cross_entropy": Size(16, 1024),
    "cross_correlation": Size(32, 64),
    "covariance": Size(64, 32),
    "negative_sampling": Size(64, 16),
}

OF_COLUMNS = ("cross_correlation", "covariance")


@pytest.fixture(params=WHOLE, ids=lambda op: op.name)
def whole(request: pytest.FixtureRequest) -> Whole:
    found: Whole = request.param
    return found


@needs_nvcc
def test_no_kernels_do_less_than_the_floor_says(whole: Whole, library: Any) -> None:
    """Bytes that they move, powers that they take, products that they ask for."""
    size, dtype = SMALL_SIZES[whole.name], torch.bfloat16
    counted = whole.count(library, size, dtype)
    passes = [part for part in PASSES if counted.kernels[part]]
    assert passes == list(PASSES if whole.case.gradients != 0 else PASSES[:1])
    for part in passes:
        work = whole.work(part, size, dtype)
        kernels = [counts for counts, _ in counted.kernels[part].values()]
        assert 32 * sum(total(x, "distinct") for x in kernels) >= work.bytes > 0
        assert 32 * sum(x.get("issued function", 0) for x in kernels) >= work.exponentials
        assert counted.product_flop[part] >= work.product_flop
        assert (work.product_flop > 0) == (whole.name in OF_COLUMNS)


def test_sizes_that_take_hours_are_refused(whole: Whole) -> None:
    whole.check_size(whole.default_sizes[0])
    with pytest.raises(ValueError, match=r"at most 268435456 elements of .*, got \d+ of size"):
        whole.check_size(Size(1 << 17, 1 << 15))
    with pytest.raises(ValueError, match="expected N"):
        whole.check_size(Size(0, 8))


def test_floors_are_counts_over_ceilings() -> None:
    """Of mma.sync an H100 reaches 62.9 % of the dense peak, 989 TFLOP/s in bfloat16."""
    gpu = GPUS["h100"]
    work = Work(bytes=3.35e12, exponentials=16 * gpu.cycles, kernel_flop=0.629 * 989e12)
    found = work.seconds(torch.bfloat16, gpu)
    assert found == pytest.approx({"memory": 1, "exponentials": 1, "matrix": 1}, rel=2e-3)
    found = Work(bytes=0, product_flop=989e12).seconds(torch.bfloat16, gpu)
    assert found == pytest.approx({"memory": 0, "exponentials": 0, "matrix": 1}, rel=2e-3)


def test_rates_of_products() -> None:
    """Of the data sheets: tf32 494.7 TFLOP/s, float64 66.9 by matrix instructions, 33.5 without."""
    gpu, boost = GPUS["h100"], 1.83 / 1.98
    assert product_rate(torch.float32, gpu) == pytest.approx(494.7e12 / 3, rel=2e-3)
    assert kernel_rate(torch.float32, gpu) == pytest.approx(0.629 * 494.7e12 / 3, rel=2e-3)
    assert product_rate(torch.float64, gpu) == pytest.approx(66.9e12 * boost, rel=1e-2)
    assert kernel_rate(torch.float64, gpu) == pytest.approx(33.5e12 * boost, rel=1e-2)


def test_products_of_the_library_are_of_the_dtype_that_it_is_given() -> None:
    """Columns are standardised in float32; the data sheet has 66.9 TFLOP/s at the boost clock."""
    of_columns = OPERATORS["covariance"].product_dtype(torch.bfloat16)
    assert of_columns == torch.float32
    assert OPERATORS["clip"].product_dtype(torch.bfloat16) == torch.bfloat16
    assert library_rate(of_columns, GPUS["h100"]) == pytest.approx(66.9e12 * 1.83 / 1.98, rel=1e-2)
    assert library_rate(torch.bfloat16, GPUS["h100"]) == GPUS["h100"].dense("bf16")


# ---- the roofline


def counts(**more: float) -> Counts:
    base: Counts = {"launches": 1, "blocks": 1000, "wavefronts": 0, "requests": 0, "conflicts": 0}
    return base | {name.replace("_", " "): value for name, value in more.items()}


@pytest.mark.parametrize(("unit", "found"), [
    ("special", counts(issued_function=1e6)),
    ("shared", counts(wavefronts=1e6)),
    ("L2", counts(sectors_copy=1e6)),
    ("DRAM", counts(sectors_load=1e6, distinct_read=1e6)),
    ("issue", counts(issued_control=1e6)),
    ("matrix", counts() | {"matrix m16n8k16.bf16": 1e6}),
])  # fmt: skip
def test_the_slowest_unit_limits(unit: str, found: Counts) -> None:
    prediction = predict(found, GPUS["h100"])
    assert prediction.limit == unit
    assert prediction.seconds == prediction.units[unit] > 0


def test_times_are_counts_over_ceilings() -> None:
    gpu = GPUS["a100"]
    units = predict(counts(issued_function=1e6, sectors_load=4e6), gpu).units
    assert units["special"] == pytest.approx(32e6 / (16 * 108 * 1.41e9))
    assert units["L2"] == pytest.approx(128e6 / (5120 * 1.41e9))


def test_a_launch_of_one_block_has_one_multiprocessor() -> None:
    gpu = GPUS["h100"]
    one = predict(counts(issued_function=1e6) | {"blocks": 1}, gpu)
    all_ = predict(counts(issued_function=1e6), gpu)
    assert one.units["special"] == pytest.approx(132 * all_.units["special"])


@pytest.mark.parametrize("name", GPUS)
def test_dense_peaks_are_the_published_ones(name: str) -> None:
    published = {"h100": 989e12, "a100": 312e12}
    assert GPUS[name].dense("bf16") == pytest.approx(published[name], rel=2e-3)


@pytest.mark.parametrize("op", ["ntxent", "info_nce", "clip", "supcon", "linear_cross_entropy"])
def test_predictions_that_are_committed_are_near_the_floor(op: str) -> None:
    """At N = 32768 in bfloat16, forward and backward."""
    text = (RESULTS / f"{op}-bfloat16-h100.txt").read_text()
    sizes = re.findall(rf"^{op} (\w+), bfloat16, H100 SXM: a model", text, re.MULTILINE)
    assert sizes == [f"32768x{dim}" for dim in (128, 256, 512, 1024)]
    ratios = [float(x) for x in re.findall(r"predicted\s/\sfloor\s([\d.]+)", text)]
    assert len(ratios) == len(PASSES) * len(sizes)
    assert max(ratios) <= 1.6


# ---- the command


def call(*argv: str) -> int:
    try:
        return main(["model", *argv])
    except SystemExit as leave:
        return int(str(leave.code))


@pytest.mark.parametrize(("argv", "fragment"), [
    (("--sizes", "300x64"), "expected N in size 300x64 to be a multiple of 256"),
    (("--sizes", "64"), "expected sizes such as 2048x128"),
    (("--gpu", "abacus"), "invalid choice: 'abacus'"),
    (("--op", "triplet"), "invalid choice: 'triplet'"),
    (("--sizes", f"{1 << 31}x64"), "expected N in size 2147483648x64 to be at most 1073741824"),
    (("--sizes", "256x65536"), "expected D in size 256x65536 to be at most 32768"),
    (("--op", "sinkhorn", "--sizes", "65536x65536"), "expected at most 268435456 elements"),
])  # fmt: skip
def test_wrong_arguments_give_one_line(
    argv: tuple[str, ...], fragment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*argv) == 2
    error = capsys.readouterr().err
    assert fragment in error
    assert error.count("\n") == 1


def test_an_installed_package_says_that_a_checkout_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(emulation, "TESTS", tmp_path / "tests")
    assert call("--sizes", "512x64") == 2
    error = capsys.readouterr().err
    assert "expected a source checkout" in error
    assert "got an installed package" in error
    assert error.count("\n") == 1


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"expected nvcc and a C\+\+ compiler .* got: no C\+\+"):
        emulation.library(99 << 10)


def test_the_command_has_every_operator() -> None:
    """Of the benchmarks, but those that launch kernels of others or none."""
    assert tuple(OPERATORS) == OPS_OF_COMMAND
    others = {"in_batch", "dcl", *(case.name for case in composed.CASES)}
    assert set(OPERATORS) == set(CASES) - others


@needs_nvcc
@pytest.mark.parametrize("op", ["sinkhorn", "covariance"])
def test_the_command_counts_what_is_whole(op: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--op", op, "--sizes", str(SMALL_SIZES[op]), "--dtype", "float32") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"{op} {SMALL_SIZES[op]}, float32, H100 SXM: a model, not a measurement" in text
    assert ("backward: kernels" in text) == (op == "covariance")


@needs_nvcc
def test_the_table_says_that_it_is_a_model(
    fits: Fits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(walking, "fits", lambda *_: fits)
    assert call("--sizes", f"32768x{FIT_DIM}") == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].endswith("a model, not a measurement")
    for word in ("ntxent_fwd", "ntxent_tiles", "predicted / floor", "exact", "62.9 %"):
        assert word in text
