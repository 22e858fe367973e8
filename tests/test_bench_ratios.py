"""What counts as a regression, with made-up numbers, and what a run says of saved ratios."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sslkern.bench import CASES, ratios
from sslkern.bench.contenders import Case, Size
from sslkern.bench.harness import Plan, Progress, run_size
from sslkern.bench.ratios import Ratio
from sslkern.bench.results import Row

ROOT = Path(__file__).parents[1]
MACHINE = "avx2-2-threads-of-2-cores"


def ratio(value: float, name: str = "ntxent 2048x128 float32", to: str = "two sgemm") -> Ratio:
    return Ratio(name, to, value, 9)


def judge(before: float, *now: float) -> tuple[str | None, int]:
    """What is said of the measurements in their order, and how many were looked at."""
    rest = list(now[1:])
    said = ratios.regression(ratio(before), ratio(now[0]), lambda: ratio(rest.pop(0)))
    return said, len(now) - len(rest)


# ---- what counts as a regression


@pytest.mark.parametrize("now", [0.2, 0.8, 0.919])
def test_up_to_15_percent_more_is_none_and_is_not_measured_again(now: float) -> None:
    assert judge(0.8, now, 99.0) == (None, 1)


def test_more_than_that_in_both_measurements_is_one() -> None:
    said, looked_at = judge(0.8, 0.93, 1.2)
    assert looked_at == 2
    assert said == (
        "ntxent 2048x128 float32: 0.930 times the time of two sgemm, 0.800 before:"
        " 16% slower, in two measurements"
    )


def test_smaller_of_both_measurements_counts() -> None:
    said, _ = judge(0.5, 2.0, 1.0)
    assert said is not None
    assert "1.000 times" in said
    assert "100% slower" in said


def test_second_measurement_can_take_the_first_one_back() -> None:
    assert judge(0.8, 2.0, 0.9) == (None, 2)


# ---- what is saved


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "ratios"
    path = ratios.save(folder, MACHINE, ratio(0.5), "pytest --save-ratios")
    assert path == folder / f"{MACHINE}.json"
    assert ratios.load(folder, MACHINE, ratio(1).name, "two sgemm") == ratio(0.5)
    assert json.loads(path.read_text())["environment"]["command"] == "pytest --save-ratios"


def test_saving_a_loss_leaves_the_others(tmp_path: Path) -> None:
    clip = ratio(0.7, name="clip 4096x128 float32", to="four sgemm")
    for one in (ratio(0.5), clip, ratio(0.6)):
        path = ratios.save(tmp_path, MACHINE, one, "")
    assert [(r["name"], r["value"]) for r in content(path)] == [
        (clip.name, 0.7),
        (ratio(1).name, 0.6),
    ]


def content(path: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(path.read_text())["ratios"]
    return found


def test_nothing_is_loaded_of_another_machine_loss_or_contender(tmp_path: Path) -> None:
    ratios.save(tmp_path, MACHINE, ratio(0.5), "")
    name = ratio(1).name
    assert ratios.load(tmp_path, "avx512-2-threads-of-2-cores", name, "two sgemm") is None
    assert ratios.load(tmp_path, MACHINE, "dcl 4096x128 float32", "two sgemm") is None
    assert ratios.load(tmp_path, MACHINE, name, "eager") is None


def test_machine_is_what_ratios_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratios, "instruction_set", lambda: "AVX2")
    monkeypatch.setattr(ratios, "usable_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert ratios.machine() == "avx2-4-threads-of-8-cores"


def test_committed_ratios_are_of_losses_that_are_there() -> None:
    """After a change of sizes or floors they are to be saved again."""
    names = {(f"{c.name} {c.default_sizes[0]} float32", against(c)) for c in CASES.values()}
    for path in (ROOT / "benchmarks" / "results" / "ratios").glob("*.json"):
        assert {(r["name"], r["to"]) for r in content(path)} <= names


# ---- what is measured


def against(case: Case) -> str:
    return ratios.measured_against(case).name


def test_losses_are_compared_with_their_floor_or_else_with_eager() -> None:
    assert against(CASES["ntxent"]) == "two sgemm"
    assert against(CASES["sinkhorn"]) == "memory"
    assert against(CASES["koleo"]) == "eager"


def made_up_rounds(monkeypatch: pytest.MonkeyPatch, ours: list[float], other: list[float]) -> None:
    def made_up(case: Case, plan: Plan, size: Size, progress: Progress) -> list[Row]:
        assert size == case.default_sizes[0]
        rows = [Row(case.name, size, "float32", c.name) for c in plan.contenders]
        rows[0].times_s, rows[1].times_s = ours, other
        if not ours:
            rows[0].drop("failed", "RuntimeError: broken")
        return rows

    monkeypatch.setattr(ratios, "run_size", made_up)


class Silent:
    def phase(self, text: str, steps: int = 1) -> None:
        pass

    def advance(self) -> None:
        pass


def test_ratio_is_the_median_of_those_within_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_rounds(monkeypatch, [1.0, 9.0, 4.0], [2.0, 3.0, 4.0])  # 0.5, 3 and 1
    found = ratios.measure(CASES["ntxent"], Silent())
    assert found == Ratio("ntxent 2048x128 float32", "two sgemm", 1.0, 3)


def test_loss_that_does_not_run_is_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_rounds(monkeypatch, [], [1.0])
    with pytest.raises(RuntimeError, match="ntxent: sslkern failed: RuntimeError: broken"):
        ratios.measure(CASES["ntxent"], Silent())


def test_plan_can_leave_out_errors() -> None:
    case, size = CASES["ntxent"], Size(32, 8)
    chosen = (case.contenders[0],)
    for wanted in (True, False):
        plan = Plan((size,), torch.float32, chosen, 1, 3, False, measure_errors=wanted)
        (row,) = run_size(case, plan, size, Silent())
        assert (row.loss_error is not None) == wanted


# ---- the command


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "benchmarks/bench_ratios.py", "-k", "sinkhorn"]
    command += ["-c", "pyproject.toml"]  # else it is looked for above the folder, too
    command += ["-p", "no:cacheprovider", "--ratios", str(folder), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_run_says_that_nothing_is_saved_and_fails_where_it_was_faster(tmp_path: Path) -> None:
    without = run_pytest(tmp_path)
    assert without.returncode == 0
    assert "1 skipped" in without.stdout
    name = f"sinkhorn {CASES['sinkhorn'].default_sizes[0]} float32"
    assert f"no ratio of {name} is saved for this machine" in without.stdout

    saved = run_pytest(tmp_path, "--save-ratios", "-s")
    (path,) = tmp_path.glob("*-threads-of-*-cores.json")
    assert f"saved: {path}" in saved.stdout
    machine, (now,) = path.stem, content(path)

    ratios.save(tmp_path, machine, Ratio(name, str(now["to"]), 1e-6, 9), "made up")
    slower = run_pytest(tmp_path)
    assert slower.returncode == 1
    assert f"{name}: " in slower.stdout
    assert "times the time of memory, 0.000 before" in slower.stdout
