"""``bench --peers``: processes of contenders, where lines end, what is written from the results."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from sslkern.bench import CASES, peers, sweep
from sslkern.bench.child import Agreement, Child, EndedError, Task
from sslkern.bench.contenders import Size, UnavailableError, steps_of_four
from sslkern.bench.memory import Job, measure
from sslkern.bench.results import Results, Row, write_json
from sslkern.bench.sweep import Limits, Line, Sweep, run_sweep
from sslkern.cli import bench_peers
from sslkern.cli.main import main

ROOT = Path(__file__).parents[1]
SIZES = (Size(64, 8), Size(256, 8), Size(1024, 8))
BOTH = "forward + backward"


class Silent:
    def phase(self, text: str, steps: int = 1) -> None:
        pass

    def advance(self) -> None:
        pass


# ---- what is compared


def test_every_other_library_takes_part() -> None:
    named = {c.peer for case in CASES.values() for c in case.against_peers} - {None}
    assert named == set(peers.PEERS)


@pytest.mark.parametrize("loss", CASES)
def test_sizes_are_there_where_a_library_is(loss: str) -> None:
    case = CASES[loss]
    assert bool(case.peer_sizes) == any(c.peer for c in case.contenders)
    assert len({size.dim for size in case.peer_sizes}) <= 1, "a plot over N has one D"
    for size in case.peer_sizes:
        case.check_size(size)


@pytest.mark.parametrize("loss", [loss for loss in CASES if CASES[loss].peer_sizes])
def test_first_problem_is_one_that_the_loss_takes(loss: str) -> None:
    """It comes before the first size, whose peak is measured."""
    case = CASES[loss]
    size = Size(min(case.peer_sizes[0].rows, case.tiny_rows), case.peer_sizes[0].dim)
    ours, eager = case.against_peers[:2]
    for contender in (ours, eager):
        outcome = contender.prepare(case.problem(size, torch.float32))()
        assert outcome is not None
        assert torch.isfinite(outcome.loss).all()


def test_sizes_grow_fourfold() -> None:
    assert steps_of_four(3, 48, 5) == (Size(3, 5), Size(12, 5), Size(48, 5))
    assert steps_of_four(3, 47, 5) == (Size(3, 5), Size(12, 5))


# ---- a process for each


def task(contender: str = "eager", **options: object) -> Task:
    return dataclasses.replace(Task("ntxent", contender, "float32", 1), **options)


def test_memory_beyond_the_limit_ends_a_child_and_says_so() -> None:
    with Child(task(memory_bytes=2**25)) as child:
        child.begin(Size(64, 8))
        child.started()
        assert child.peak(Size(256, 8), forward_alone=False, timeout_s=60) is not None
        with pytest.raises(EndedError, match=r"^needs more than 0\.03125 GiB$"):
            child.peak(Size(4096, 8), forward_alone=False, timeout_s=60)


def test_child_that_does_not_answer_in_time_is_ended() -> None:
    with Child(task()) as child:
        child.begin(Size(64, 8))
        child.started()
        with pytest.raises(EndedError, match=r"^no answer within 0\.001 s$"):
            child.peak(Size(2048, 64), forward_alone=False, timeout_s=0.001)
        assert not child._process.is_alive()


def test_child_that_was_killed_is_noticed() -> None:
    with Child(task()) as child:
        child.begin(Size(64, 8))
        child.started()
        os.kill(child._process.pid, signal.SIGKILL)
        with pytest.raises(EndedError, match=r"^its process ended with code -9$"):
            child.seconds(60)


def test_contender_that_cannot_take_part_says_why_from_its_process() -> None:
    with Child(task("linear_cross_entropy")) as child:
        child.begin(Size(64, 8))
        with pytest.raises(UnavailableError, match="left out of its own denominator"):
            child.started()


def test_memory_after_smaller_sizes_is_that_of_a_fresh_process() -> None:
    fresh = measure(Job("ntxent", "eager", 1024, 8, "float32", 1))
    if fresh is None:
        pytest.skip("this system does not tell the peak of resident memory")
    with Child(task()) as child:
        child.begin(SIZES[0])
        child.started()
        for size in SIZES:
            after = child.peak(size, forward_alone=False, timeout_s=60)
            for _ in range(3):
                assert child.seconds(60) > 0
    assert after == pytest.approx(fresh, rel=0.1)


def test_forward_alone_wants_no_gradient() -> None:
    with Child(task()) as child:
        child.begin(SIZES[0])
        child.started()
        child.peak(SIZES[1], forward_alone=True, timeout_s=60)
        assert child.agreement(60).grad is None
        child.peak(SIZES[1], forward_alone=False, timeout_s=60)
        assert 0 < child.agreement(60).grad < 1e-5


# ---- lines


class FakeChild:
    """Answers at once; ``ends`` says at which question of which contender something happens."""

    ends: dict[tuple[str, str, int], Exception]
    asked: list[tuple[str, str, int]]
    step_s: dict[str, float]

    def __init__(self, of: Task) -> None:
        self.name = of.contender
        self.size = 0

    def _ask(self, question: str) -> None:
        key = (self.name, question, self.size)
        FakeChild.asked.append(key)
        if key in FakeChild.ends:
            raise FakeChild.ends[key]

    def begin(self, size: Size) -> None:
        pass

    def started(self) -> None:
        self._ask("started")

    def peak(self, size: Size, *, forward_alone: bool, timeout_s: float) -> int:
        self.size = size.rows
        self._ask("forward" if forward_alone else "peak")
        return 1000 * size.rows

    def seconds(self, timeout_s: float) -> float:
        self._ask("seconds")
        return FakeChild.step_s.get(self.name, 0.1)

    def agreement(self, timeout_s: float) -> Agreement:
        self._ask("agreement")
        return Agreement(1e-7, 1e-6)

    def end(self) -> None:
        FakeChild.asked.append((self.name, "end", self.size))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeChild]:
    FakeChild.ends, FakeChild.asked, FakeChild.step_s = {}, [], {}
    monkeypatch.setattr(sweep, "Child", FakeChild)
    return FakeChild


def swept(loss: str = "dcl", limits: Limits | None = None, repeats: int | None = 2) -> list[Row]:
    made = Sweep(CASES[loss], "float32", limits or Limits(), 1, repeats, SIZES)
    return run_sweep(made, Silent())


def found(rows: list[Row], contender: str) -> list[tuple[int, str, str]]:
    return [(r.size.rows, r.passes, r.status) for r in rows if r.contender == contender]


def test_every_contender_is_measured_at_every_size_in_both_passes(fake: type[FakeChild]) -> None:
    rows = swept()
    full = [(n, passes, "ok") for n in (64, 256, 1024) for passes in ("forward", BOTH)]
    assert {r.contender for r in rows} == {"sslkern", "eager", "lightly"}
    for name in ("sslkern", "eager", "lightly"):
        assert found(rows, name) == full
    assert all(len(row.times_s) == 2 and row.peak_bytes == 1000 * row.size.rows for row in rows)
    assert all(row.speedup == 1 for row in rows)
    checked = [(r.size.rows, r.passes) for r in rows if r.grad_error is not None]
    assert checked == [(64, BOTH)] * 3, "errors are looked at where that takes no time"


def test_loss_without_gradient_has_one_pass(fake: type[FakeChild]) -> None:
    assert {row.passes for row in swept("sinkhorn")} == {"forward"}


def test_line_ends_where_its_contender_does_and_the_others_go_on(fake: type[FakeChild]) -> None:
    fake.ends["lightly", "peak", 256] = EndedError("needs more than 8 GiB")
    rows = swept()
    assert found(rows, "lightly") == [
        (64, "forward", "ok"),
        (64, BOTH, "ok"),
        (256, "forward", "ok"),
        (256, BOTH, "failed"),
    ]
    last = next(row for row in rows if row.status == "failed")
    assert (last.reason, last.times_s) == ("needs more than 8 GiB", [])
    assert len(found(rows, "sslkern")) == len(found(rows, "eager")) == 6
    assert ("lightly", "end", 256) in fake.asked


def test_step_beyond_the_limit_of_time_ends_its_line(fake: type[FakeChild]) -> None:
    fake.step_s["eager"] = 3.25
    rows = swept(limits=Limits(step_s=3))
    assert found(rows, "eager") == [(64, "forward", "failed")]
    reasons = [row.reason for row in rows if row.contender == "eager"]
    assert reasons == ["a step took 3.2 s, more than 3 s"]


def test_contender_that_does_not_start_has_one_row_with_the_reason(fake: type[FakeChild]) -> None:
    fake.ends["lightly", "started", 0] = UnavailableError("not installed: pip install it")
    rows = swept()
    assert found(rows, "lightly") == [(64, BOTH, "skipped")]
    assert len(found(rows, "sslkern")) == 6


def test_rounds_begin_with_another_contender_each_time(fake: type[FakeChild]) -> None:
    swept(repeats=3)
    order = "".join(n[0] for n, q, size in fake.asked if q == "seconds" and size == 64)
    assert order[: 4 * 3] == "sel" + "sel" + "els" + "lse", "a discarded round, then three"


def test_first_round_of_long_steps_counts(fake: type[FakeChild]) -> None:
    fake.step_s["eager"] = 2.0
    rows = swept(repeats=3)
    order = "".join(n[0] for n, q, size in fake.asked if q == "seconds" and size == 64)
    assert order[: 3 * 3] == "sel" + "els" + "lse"
    assert {len(row.times_s) for row in rows} == {3}


@pytest.mark.parametrize(
    ("reason", "limit"),
    [
        ("needs more than 8 GiB", True),
        ("a step took 3.2 s, more than 3 s", True),
        ("no answer within 8 s", True),
        ("its process ended with code -11", False),
        ("RuntimeError: broken", False),
    ],
)
def test_limits_are_no_failures(reason: str, limit: bool) -> None:
    assert sweep.is_limit(reason) == limit


def test_all_children_are_ended(fake: type[FakeChild]) -> None:
    fake.ends["sslkern", "seconds", 256] = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        swept()
    assert {name for name, question, _ in fake.asked if question == "end"} == {
        "sslkern",
        "eager",
        "lightly",
    }


def test_row_of_a_line_names_what_it_is(fake: type[FakeChild]) -> None:
    line = Line(Sweep(CASES["dcl"], "bfloat16", Limits(), 1), CASES["dcl"].contenders[0])
    row = line.row(SIZES[0], "forward")
    assert (row.loss, row.dtype, row.contender, row.passes) == (
        "dcl",
        "bfloat16",
        "sslkern",
        "forward",
    )


# ---- the command


def test_files_are_written_once_and_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["bench", "--peers", "--loss", "koleo", "--sizes", "64x8,128x8,256x8", "--repeats", "1"]
    argv += ["--folder", "out", "--memory-limit", "0.5", "--threads", "1"]
    assert main(argv) == 0
    assert "results: out/koleo-float32.json" in capsys.readouterr().out
    names = {path.name for path in Path("out").iterdir()}
    assert names == {f"koleo-{kind}.{end}" for kind in bench_kinds() for end in ("json", "png")}
    document = json.loads(Path("out/koleo-bfloat16.json").read_text())
    assert document["limits"] == {"memory_gib": 0.5, "step_s": Limits().step_s}
    assert document["environment"]["command"].startswith("python -m sslkern bench --peers")
    ours = [r for r in document["rows"] if r["contender"] == "sslkern"]
    assert [(r["rows"], r["passes"], len(r["times_s"])) for r in ours] == [
        (n, passes, 1) for n in (64, 128, 256) for passes in ("forward", BOTH)
    ]

    before = Path("out/koleo-float32.json").stat().st_mtime_ns
    assert main(argv) == 0
    assert "kept: out/koleo-float32.json" in capsys.readouterr().out
    assert Path("out/koleo-float32.json").stat().st_mtime_ns == before


def test_peers_are_measured_on_the_cpu_where_there_is_a_gpu(
    fake: type[FakeChild], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    argv = ["bench", "--peers", "--loss", "koleo", "--dtype", "float32", "--sizes", "64x8"]
    assert main([*argv, "--repeats", "1", "--folder", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "koleo-float32.json").read_text())
    assert {row["status"] for row in document["rows"]} == {"ok"}
    assert "device" not in document["environment"]


def bench_kinds() -> list[str]:
    return [str(dtype).removeprefix("torch.") for dtype in bench_peers.DTYPES]


@pytest.mark.parametrize(
    ("argv", "fragment"),
    [
        (["--json", "x.json"], "argument --json: not with --peers"),
        (["--no-memory"], "argument --no-memory: not with --peers"),
        (["--device", "cuda"], "argument --device: expected cpu with --peers, got cuda"),
        (["--loss", "negative_sampling"], "no other library has negative_sampling"),
        (["--loss", "dcl", "--sizes", "3x8"], "expected N in size 3x8 to be even"),
        (["--memory-limit", "1e9"], "expected at most the"),
        (["--memory-limit", "0"], "expected a number above 0, got '0'"),
        (["--time-limit", "inf"], "expected a number above 0, got 'inf'"),
    ],
)
def test_wrong_argument_gives_one_line(
    argv: list[str], fragment: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    try:
        code = main(["bench", "--peers", "--folder", str(tmp_path), *argv])
    except SystemExit as leave:
        code = leave.code
    assert code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert fragment in error


# ---- what is written from the results


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.delitem(sys.modules, "peers", raising=False)
    return importlib.import_module("peers")


def made_up(folder: Path) -> None:
    """Lightly ends at 256 rows, where ours takes a quarter of its time."""
    rows = []
    for n in (64, 256, 1024):
        for passes, factor in (("forward", 2.0), (BOTH, 4.0)):
            for name, scale in (("sslkern", 1.0), ("eager", 3.0), ("lightly", factor)):
                row = Row("dcl", Size(n, 8), "float32", name, passes=passes)
                row.times_s, row.peak_bytes = [scale * n / 1e5] * 3, n * 2**10 * int(scale)
                if name == "lightly" and n == 1024:
                    row.drop("failed", "needs more than 8 GiB")
                if name != "lightly" or (n, passes) != (1024, BOTH):
                    rows.append(row)
    environment = {
        "cpu": "a CPU",
        "threads": 2,
        "torch": "2",
        "command": "python -m sslkern bench --peers",
        "peers": {"lightly": "1.6.0", "POT": None},
    }
    limits = Limits(8, 4).as_dict()
    write_json(Results(environment, None, rows, limits), folder / "dcl-float32.json")


def test_overview_says_where_a_library_ends(script: ModuleType, tmp_path: Path) -> None:
    made_up(tmp_path)
    text = script.overview(tmp_path)
    assert "| DCL | lightly | 256 | 1024+ | 2.0x | 4.0x | 256 KiB | 1 MiB |" in text
    assert "a CPU, 2 threads, torch 2; 8 GiB and 4 s for a step. lightly 1.6.0. " in text
    assert "POT" not in text
    assert text.count("python -m sslkern bench --peers") == 1


def test_page_shows_every_size_and_the_reason(script: ModuleType, tmp_path: Path) -> None:
    made_up(tmp_path)
    text = script.size_by_size("dcl", tmp_path)
    assert "| forward | sslkern | eager | lightly |" in text
    assert "| 64 x 8 | 0.64 ms, 64 KiB | 1.92 ms, 192 KiB | 1.28 ms, 128 KiB |" in text
    assert "| 1024 x 8 | 10.2 ms, 1 MiB | 30.7 ms, 3 MiB | needs more than 8 GiB |" in text
    assert "bfloat16" not in text


def test_page_shows_why_a_library_could_not_begin(script: ModuleType, tmp_path: Path) -> None:
    made_up(tmp_path)
    path = tmp_path / "dcl-float32.json"
    document = json.loads(path.read_text())
    absent = {**document["rows"][0], "contender": "POT", "passes": BOTH, "times_s": []}
    absent |= {"status": "failed", "reason": "TypeError: int | str"}
    path.write_text(json.dumps({**document, "rows": [*document["rows"], absent]}))
    text = script.size_by_size("dcl", tmp_path)
    assert "| forward | sslkern | eager | lightly |\n" in text
    assert "| forward + backward | sslkern | eager | lightly | POT |\n" in text
    assert "| TypeError: int / str |" in text
    assert "POT" not in script.overview(tmp_path)


def test_without_results_nothing_is_written(script: ModuleType, tmp_path: Path) -> None:
    page = (
        "before\n<!-- peers: all, written by benchmarks/peers.py -->\nold\n<!-- /peers -->\nafter\n"
    )
    assert script.with_parts(page, tmp_path) == page.replace("old\n", "")


def test_every_loss_of_the_sweep_has_a_name_and_a_page(script: ModuleType) -> None:
    losses = {name for name, case in CASES.items() if case.peer_sizes}
    assert set(script.NAMES) == losses
    pages = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    assert {match["loss"] for match in script.MARK.finditer(pages)} == losses
    assert [m["loss"] for m in script.MARK.finditer((ROOT / "README.md").read_text())] == ["all"]


def test_readme_and_pages_are_what_the_results_say() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "peers.py", "--check"]
    assert subprocess.run(command, check=False).returncode == 0


def test_committed_results_are_of_losses_that_are_shown(script: ModuleType) -> None:
    for path in script.FOLDER.glob("*.json"):
        loss, kind = path.stem.rsplit("-", 1)
        assert loss in script.NAMES
        assert kind in script.KINDS
