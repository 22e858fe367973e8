"""Sharing a batch: what is counted, the model beside committed and live numbers, the page."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist

from sslkern.bench.ranks import Ranks
from sslkern.bench.scaling import LOSSES, STRATEGIES, Job, sent_by_rank
from sslkern.bench.sent import Sent, count_sent, socket_bytes
from sslkern.cli.main import main
from sslkern.model import scaling as model

ROOT = Path(__file__).parents[1]
MEASURED = json.loads((ROOT / "benchmarks/results/scaling/float32.json").read_text())
SHARED = [row for row in MEASURED["rows"] + MEASURED["per_rank"] if row["processes"] > 1]
MEMORY_MARGIN = 0.1
"""Of the model: rows' own numbers, and what the kernel needs for one gradient and not for two."""
WORK = 0.9, 2.5
"""Measured over modelled, which is the products alone."""


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaling_page", ROOT / "benchmarks/scaling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def three() -> Iterator[Ranks]:
    with Ranks(3) as ranks:
        yield ranks


# ---- what is counted


def _known(group: Any) -> tuple[Sent, int]:
    """On three ranks: 10 elements to two others, 2 rows of 5 to each, 7 on, 1 in all."""
    x, rank = torch.zeros(10), dist.get_rank(group)
    before = socket_bytes() or 0
    with count_sent() as sent:
        dist.all_gather([torch.empty(10) for _ in range(3)], x, group=group)
        given, taken = torch.zeros(6, 5, dtype=torch.float64), torch.empty(6, 5).double()
        dist.all_to_all_single(taken, given, [2, 2, 2], [2, 2, 2], group=group)
        ops = [
            dist.P2POp(dist.isend, torch.zeros(7), (rank + 1) % 3, group),
            dist.P2POp(dist.irecv, torch.empty(7), (rank - 1) % 3, group),
        ]
        for work in dist.batch_isend_irecv(ops):
            work.wait()
        dist.all_reduce(torch.zeros(1), dist.ReduceOp.SUM, group=group)
    dist.barrier(group)
    return sent, (socket_bytes() or 0) - before


def test_bytes_of_known_collectives(three: Ranks) -> None:
    for sent, at_sockets in three.run(3, _known):
        assert sent == {"all-gather": 80, "all-to-all": 160, "ring": 28, "all-reduce": 4}
        assert socket_bytes() is None or at_sockets >= 268


def test_sockets_count_what_is_sent() -> None:
    """Large messages: what the backend adds to each is little of them."""
    rows = [row for row in SHARED if row["socket_bytes"] is not None]
    large = [row for row in rows if sum(row["sent_bytes"].values()) > 2**20]
    for row in large:
        total = sum(row["sent_bytes"].values())
        assert total - row["sent_bytes"]["all-reduce"] <= row["socket_bytes"] < 1.05 * total


# ---- the model and runs


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("loss", LOSSES)
def test_model_of_bytes_is_what_is_sent(three: Ranks, loss: str, strategy: str) -> None:
    job = Job(loss, 3 * 5, 7, "bfloat16", 3, strategy)
    share = model.Share(model.LOSSES[loss], 3, 5, 7)
    for sent, _ in three.run(3, sent_by_rank, job):
        assert sent == model.sent(share, strategy)


def test_model_of_bytes_is_what_was_sent(page: ModuleType) -> None:
    assert {row["loss"] for row in SHARED} == set(LOSSES)
    for row in SHARED:
        assert model.sent(page.share_of(row), row["strategy"]) == row["sent_bytes"]


def test_model_of_memory_is_what_was_measured(page: ModuleType) -> None:
    rows = [row for row in MEASURED["per_rank"] if row["processes"] > 2]
    assert {row["strategy"] for row in rows} == set(STRATEGIES)
    for row in rows:
        peak = row["peak_bytes"]
        assert abs(page.modelled_peak(row) - peak) < MEMORY_MARGIN * peak


def test_model_of_work_is_what_was_measured(page: ModuleType) -> None:
    """At the largest size: small ones are not bound by products."""
    for loss in LOSSES:
        rows = [row for row in MEASURED["rows"] if row["loss"] == loss and row["processes"] > 1]
        largest = max(row["pairs"] * row["dim"] for row in rows)
        for row in rows:
            if row["pairs"] * row["dim"] == largest:
                ratio = row["work_ratio"] / page.work_ratio(loss, row["processes"])
                assert WORK[0] < ratio < WORK[1]


def test_measured_ring_does_not_grow() -> None:
    for loss in LOSSES:
        rows = [row for row in MEASURED["per_rank"] if row["loss"] == loss]
        peak = {(row["strategy"], row["processes"]): row["peak_bytes"] for row in rows}
        block = 4 * rows[0]["rows_per_rank"] * rows[0]["dim"]
        if not model.LOSSES[loss].once:  # of which few ranks have too few rounds for all of it
            assert peak["ring", 8] < peak["ring", 4] + block / 2
        assert peak["gather", 8] > peak["gather", 4] + 4 * block - block / 2


# ---- the model alone

CLIP = model.LOSSES["clip"]
EVEN = model.Kernels(1e-12, 2e-12)
IDLE = model.Machine(model.Network(latency=0.0), host=0.0)
FULL = replace(IDLE, multiprocessors=1)  # by any block


def test_time_of_a_ring_that_is_bound_by_work() -> None:
    """N n pairs of rows, 3 ps each; then the last gradients go home."""
    share = model.Share(CLIP, 4, 1 << 15, 512)
    found = model.shared_seconds(share, "ring", EVEN, IDLE)
    home = share.rows * (24 + 4 * 512) / (0.8 * 450e9)
    assert found.limit == "compute"
    assert found.seconds == pytest.approx(4 * share.rows**2 * 3e-12 + home)


def test_time_of_a_ring_that_is_bound_by_its_links() -> None:
    """All N rows through one adapter; keys with ids, then with the gradients' and statistics."""
    share = model.Share(CLIP, 16, 1024, 512)
    found = model.shared_seconds(share, "ring", EVEN, IDLE)
    per_row = (1024 + 8 + 24) + (1024 + 8 + 4 + 16 + 4 * 512)
    home = share.rows * (24 + 4 * 512) / 40e9
    assert found.limit == "network"
    assert found.seconds == pytest.approx(16 * share.rows * per_row / 40e9 + home)


def test_time_to_gather() -> None:
    share = model.Share(CLIP, 4, 1 << 15, 512)
    found = model.shared_seconds(share, "gather", EVEN, IDLE)
    per_row = (1024 + 8 + 24) + (1024 + 8 + 4 + 16 + 4 * 512)
    moved = 3 * share.rows * per_row / (0.8 * 450e9)
    assert found.seconds == pytest.approx(4 * share.rows**2 * 3e-12 + moved)


def test_time_of_many_small_blocks_is_the_hosts() -> None:
    share = model.Share(CLIP, 4096, 8, 64)
    for strategy in STRATEGIES:
        found = model.shared_seconds(share, strategy, EVEN, model.Machine())
        assert found.limit == "host"
        assert found.seconds >= 2 * 4096 * 100e-6


@pytest.mark.parametrize("loss", model.LOSSES)
@pytest.mark.parametrize("processes", [8, 64])
def test_rows_that_hide_transfers(loss: str, processes: int) -> None:
    """From there on work is the limit; at half as many it is the network."""
    found = model.LOSSES[loss]
    rows = model.rows_to_hide(model.Share(found, processes, 1, 512), EVEN, FULL)
    whole = -(-rows // 128) * 128  # of tiles that are full
    for count, limit in ((whole, "compute"), (rows // 2 // 128 * 128, "network")):
        share = model.Share(found, processes, count, 512)
        assert model.shared_seconds(share, "ring", EVEN, FULL).limit == limit


@pytest.mark.parametrize("loss", model.LOSSES)
def test_batch_that_fills_the_budget(loss: str) -> None:
    """What gathering holds is 8 GB but for what does not grow with the ranks."""
    share = model.Share(model.LOSSES[loss], 64, 16, 512)
    batch = model.largest_batch(share, 8e9, model.Machine())
    full = model.Share(share.loss, batch // 16, 16, 512)
    assert model.peak_bytes(full, "gather", 0) == pytest.approx(8e9, rel=1e-3)


def test_ring_of_the_model_does_not_grow() -> None:
    for loss in model.LOSSES.values():
        few, many = (
            model.peak_bytes(model.Share(loss, count, 64, 512), "ring", 0) for count in (8, 4096)
        )
        assert few == many


# ---- the page and the command


def test_page_is_what_the_results_say(page: ModuleType) -> None:
    text = page.PAGE.read_text()
    assert page.written(text) == text


def test_page_says_what_is_a_model(page: ModuleType) -> None:
    """Every table of the model stands below a heading that says so."""
    text = page.PAGE.read_text()
    for name in set(page.TABLES) - {"measurement", "memory", "agreement"}:
        before = text.split(f"<!-- {name}:")[0]
        assert before.rsplit("\n## ", 1)[1].startswith("Model: ")


def test_command_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scaling.json"
    options = "--loss clip --sizes 16x8 --processes 2 --per-rank 8x8 --per-rank-processes 1,2"
    assert main(["scaling", *options.split(), "--repeats", "2", "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert [row["strategy"] for row in document["rows"]] == ["single", *STRATEGIES]
    assert [row["processes"] for row in document["per_rank"]] == [1, 2, 2]
    for row in document["rows"]:
        assert len(row["times_s"]) == len(row["work_s"]) == 2
    output = capsys.readouterr().out
    assert "2, ring" in output
    assert "times are no speed of several machines" in " ".join(output.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--loss simclr", "expected some of ntxent, clip, info_nce, got 'simclr'"),
        ("--sizes 9x8", "expected N to be a multiple of 2, the number of processes, got 9x8"),
        ("--processes 1,2", "expected at least 2 processes, got 1"),
        ("--sizes 0x8", "expected N and D to be at least 1, got 0x8"),
    ],
)
def test_command_refuses(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scaling", *options.split()]) == 2
    assert message in capsys.readouterr().err


def _fails(group: Any) -> None:
    raise ValueError(f"no {dist.get_rank(group)}")


def test_what_a_rank_raises_is_told(three: Ranks) -> None:
    with pytest.raises(RuntimeError, match="rank 0 of 3: ValueError: no 0"):
        three.run(3, _fails)
