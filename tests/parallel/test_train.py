"""Training on several processes against one: every recipe, the command, its files and errors."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
import types
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import Ranks
from torch import Tensor, nn

from sslkern.cli import train as train_command
from sslkern.cli.errors import UserError
from sslkern.cli.main import build_parser, main
from sslkern.data import load_data
from sslkern.parallel.spread import LostRankError, PartsOfRows
from sslkern.train import TrainConfig, Trainer, TrainingError, fit, load_checkpoint
from sslkern.train import ranks as train_ranks
from sslkern.train.engine import Record
from sslkern.train.recipes import load_recipe, recipe_names

STEPS = 3
"""Of which two are an epoch: samples are clustered anew before the last one."""
BATCH = 8
LEAST = {"wmse": 64, "pcl": 20}
"""Whitening takes parts of that many samples; there are 40 clusters."""
EPS = 1e-6
"""Of Adam: with its own of 1e-8 a step is as large as any, where a gradient is zero but for
rounding, such as that of a bias before a norm."""
load_once = cache(load_data)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def ranks_of(group: Any) -> train_ranks.Ranks:
    return train_ranks.Ranks(None if group is None else PartsOfRows(group))


def trainer_of(group: Any, name: str, batch: int, **given: Any) -> Trainer:
    torch.set_num_threads(1)
    config = TrainConfig.of(name, epochs=2, batch_size=batch, **given)
    samples = load_once(config.data).take(torch.arange(2 * batch))
    trainer = Trainer(config, samples, ranks_of(group))
    for settings in trainer.optimizer.param_groups:
        settings["eps"] = EPS
    return trainer


def rows_of(trainer: Trainer) -> list[int]:
    """Gets, whenever the encoder is called, how many rows the first module within it is given."""
    encoder, found, waits = trainer.model.encoder, [], [False]

    def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if module is encoder:
            waits[0] = True
        elif waits[0]:
            found.append(len(args[0]))
            waits[0] = False

    for module in encoder.modules():
        module.register_forward_pre_hook(before)
    return found


def train(
    group: Any, name: str, batch: int, given: dict[str, Any]
) -> tuple[list[Record], dict[str, Tensor], list[int]]:
    """Records, state, and how many rows the encoder has seen."""
    trainer = trainer_of(group, name, batch, **given)
    rows = rows_of(trainer)
    for _ in range(STEPS):
        trainer.run_step()
    return trainer.history, trainer.model.state_dict(), rows


def assert_trains_like_one_process(
    ranks: Ranks, size: int, name: str, batch: int, tolerance: float, **given: Any
) -> list[list[int]]:
    """Rows that the encoder has seen in one process, and on each rank."""
    found = ranks.run(size, train, name, batch, given)
    history, state, rows = train(None, name, batch, given)
    for their_history, their_state, _ in found:
        assert their_history == found[0][0]  # to the bit
        for record, expected in zip(their_history, history, strict=True):
            assert record == pytest.approx(expected, rel=tolerance, abs=tolerance)
        assert their_state.keys() == state.keys()
        for key, value in state.items():
            torch.testing.assert_close(
                their_state[key],
                value,
                rtol=tolerance,
                atol=tolerance,
                msg=lambda text, key=key: f"{key}: {text}",
            )
    return [rows, *(theirs for _, _, theirs in found)]


@pytest.mark.parametrize("name", recipe_names())
def test_two_processes_train_like_one(ranks: Ranks, name: str) -> None:
    batch = LEAST.get(name, BATCH)
    one, *each = assert_trains_like_one_process(ranks, 2, name, batch, 1e-9, dtype="float64")
    if name != "word2vec":  # whose encoder is itself a layer
        assert [sum(x) for x in zip(*each, strict=True)] == one
        assert max(each[0]) < max(one)


UNEVEN = ("byol", "clip", "deepcluster_v2", "detco", "gan", "ibot", "moco_v2", "swav", "xlm_clm")


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("name", UNEVEN)
def test_parts_may_differ_in_size(ranks: Ranks, name: str, size: int) -> None:
    """Of 10 rows; and the key encoder of MoCo sees parts of 2 and 3, fewer than there are ranks."""
    assert_trains_like_one_process(ranks, size, name, 10, 1e-9, dtype="float64")


@pytest.mark.parametrize("name", ["simclr", "byol", "clip", "mae", "causal_lm"])
def test_float32(ranks: Ranks, name: str) -> None:
    losses = [
        [record["loss"] for record in history]
        for history in (
            train(None, name, BATCH, {})[0],
            *(found[0] for found in ranks.run(2, train, name, BATCH, {})),
        )
    ]
    assert losses[1] == losses[2] == pytest.approx(losses[0], rel=1e-5)


def compiled_losses(group: Any, name: str) -> list[float]:
    trainer = trainer_of(group, name, BATCH, dtype="float64")
    torch.compiler.reset()
    trainer._call = torch.compile(trainer.model, backend="aot_eager")
    return [trainer.run_step()["loss"] for _ in range(2)]


def test_compiled_method_calls_its_encoder_on_all_ranks(ranks: Ranks) -> None:
    trainer = trainer_of(None, "moco_v2", BATCH, dtype="float64")
    expected = [trainer.run_step()["loss"] for _ in range(2)]
    for losses in ranks.run(2, compiled_losses, "moco_v2"):
        assert losses == pytest.approx(expected, rel=1e-9)


def test_autocast(ranks: Ranks) -> None:
    expected = trainer_of(None, "simclr", BATCH, amp=True).run_step()["loss"]
    for history, _, _ in ranks.run(2, train, "simclr", BATCH, {"amp": True}):
        assert history[0]["loss"] == pytest.approx(expected, rel=0.02)


def large_of(name: str) -> set[str]:
    config = TrainConfig.of(name, batch_size=16)
    samples = load_once(config.data).take(torch.arange(64))
    model = load_recipe(name).build(samples, **config.options)
    names = {id(module): key for key, module in model.named_modules()}
    return {names[id(module)] for module in train_ranks.large_modules(model)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("simclr", {"encoder"}),
        ("byol", {"encoder", "teacher.module.0"}),
        ("ibot", {"encoder", "teacher.module.encoder"}),
        ("densecl", {"encoder", "teacher.module.0"}),
        ("clip", {"encoder", "text_encoder"}),
        ("gan", {"encoder", "generator"}),
        ("context_encoder", {"encoder", "decoder", "discriminator"}),
    ],
)
def test_large_modules_are_encoders_and_what_is_as_large(name: str, expected: set[str]) -> None:
    assert large_of(name) == expected


# --- what the first rank does, and what all are told ----------------------------------------------


def calls_of_first(group: Any) -> tuple[list[int], str]:
    ranks, called = ranks_of(group), []

    def call() -> str:
        called.append(ranks.rank)
        return "found"

    return called, ranks.of_first(call)


def test_first_rank_calls_for_all(ranks: Ranks) -> None:
    assert ranks.run(3, calls_of_first) == [([0], "found"), ([], "found"), ([], "found")]


def fit_into(group: Any, folder: Path, wrong: str) -> str:
    trainer = trainer_of(group, "simclr", BATCH)
    if wrong == "loss":
        nn.init.constant_(next(trainer.model.parameters()), torch.nan)

    def on_step(record: Record, rate: float) -> None:
        if wrong == "disk" and record["step"] == 2:
            raise OSError(28, "No space left on device")

    try:
        fit(trainer, folder, on_step=on_step)
    except (OSError, TrainingError) as error:
        return f"{type(error).__name__}: {error}"
    return "done"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("nothing", "done"),
        ("loss", "TrainingError: the loss is nan at step 1: try a lower --lr"),
        ("disk", "OSError: [Errno 28] No space left on device"),
    ],
)
def test_all_ranks_end_alike(ranks: Ranks, tmp_path: Path, wrong: str, message: str) -> None:
    assert ranks.run(3, fit_into, tmp_path, wrong) == [message] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "log.jsonl"]
    steps = {"nothing": 4, "loss": 0, "disk": 2}[wrong]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == steps


def leave(group: Any) -> bool:
    return ranks_of(group).all_leave()


def test_all_ranks_leave(ranks: Ranks) -> None:
    assert ranks.run(3, leave) == [True] * 3


@pytest.mark.parametrize(
    ("is_first", "all_leave", "told"),
    [(True, True, True), (True, False, True), (False, True, False), (False, False, True)],
)
def test_error_is_told_by_the_first_rank_or_by_the_only_one_that_has_it(
    capsys: pytest.CaptureFixture[str], is_first: bool, all_leave: bool, told: bool
) -> None:
    several: Any = types.SimpleNamespace(is_first=is_first, all_leave=lambda: all_leave)
    assert train_command._fail(UserError("no such\nfile"), several) == 2
    error = "sslkern train: error: no such file\n" if told else ""
    assert capsys.readouterr() == ("", error)


def steps_from(group: Any, state: dict[str, Any] | None, steps: int) -> dict[str, Any]:
    trainer = trainer_of(group, "moco_v2", BATCH, dtype="float64")
    if state is not None:
        trainer.load_state_dict(copy.deepcopy(state))  # what ranks are sent they share
    for _ in range(steps):
        trainer.run_step()
    return trainer.state_dict()


def test_state_of_one_process_goes_on_in_several_and_back(ranks: Ranks) -> None:
    state = steps_from(None, None, 1)
    state = ranks.run(3, steps_from, state, 2)[2]
    assert_close(steps_from(None, state, 1), steps_from(None, None, 4))


def assert_close(found: Any, expected: Any) -> None:
    """The same but for rounding."""
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value)
    elif isinstance(found, list):
        for x, value in zip(found, expected, strict=True):
            assert_close(x, value)
    elif isinstance(found, Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    else:
        assert found == (
            pytest.approx(expected, rel=1e-9) if isinstance(expected, float) else expected
        )


# --- the command ----------------------------------------------------------------------------------

SIMCLR = ("--method", "simclr", "--data", "digits", "--dtype", "float64")
CLIP = ("--method", "clip", "--dtype", "float64", "--epochs", "1000", "--checkpoint-every", "1")

WAIT = 240
"""Seconds for what takes ten on an idle machine."""


def start(processes: int, *words: str | Path, program: Any = ("-m", "sslkern")) -> Any:
    """``sslkern train`` in processes of its own, with all output in one."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes))
    return subprocess.Popen(
        [sys.executable, *launcher, *map(str, (*program, "train", *words))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output."""
    try:
        out, _ = process.communicate(timeout=WAIT)
    finally:
        process.kill()
    return process.returncode, out


def lines(folder: Path) -> list[Record]:
    path = folder / "log.jsonl"
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def test_command_on_two_processes_equals_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    words = (*SIMCLR, "--steps", "5", "--quiet", "--out")
    process = start(2, *words, two)
    assert main(["train", *words, str(one)]) == 0
    code, out = finished(process)
    assert code == 0, out
    assert out.count("SimCLR: measures on") == 1
    assert "1 thread in each of 2 processes" in out
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert_close(lines(two), lines(one))
    summaries = [json.loads((path / "summary.json").read_text()) for path in (two, one)]
    assert [summary.pop("processes") for summary in summaries] == [2, 1]
    for summary in summaries:
        for name in ("seconds", "samples_per_second"):
            assert summary.pop(name) > 0
    assert_close(*summaries)


def test_interrupted_run_of_two_processes_goes_on_in_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    process = start(2, *CLIP, "--out", two)
    latest = time.monotonic() + WAIT
    while len(lines(two)) < 20 and time.monotonic() < latest:  # an epoch has 14 steps
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    code, out = finished(process)
    assert code != 0
    assert out.count("sslkern train: interrupted; the last checkpoint is whole, go on") == 1
    assert out.count("sslkern train: ") == 1
    assert len(load_checkpoint(two).trainer["history"]) >= 14
    words = ("--quiet", "--steps", str(len(lines(two)) + 1))
    assert main(["train", *words, "--resume", str(two)]) == 0
    assert main(["train", *words, *CLIP, "--out", str(one)]) == 0
    assert_close(lines(two), lines(one))


# Of threads where the system shows them; elsewhere there is nothing in the folder.
SHOW_THREADS = """
import pathlib, sys
from sslkern.cli.main import main

code = main(sys.argv[1:])
names = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
threads = [*sorted(name for name in names if "gloo" in name), "of gloo"]
# At once: another rank writes, too.
sys.stdout.write(f"exit code {code} with {' '.join(threads)}\\n")
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("words", "expected", "told"),
    [
        (("--steps", "1"), 0, "SimCLR: measures on"),
        (("--set", "heat=1"), 2, "expected --set to be an option of simclr (temperature, "),
        (("--steps", "9", "--lr", "1e30"), 2, "try a lower --lr"),
    ],
)
def test_end_is_told_once_and_no_thread_of_the_group_lives_on(
    tmp_path: Path, words: tuple[str, ...], expected: int, told: str
) -> None:
    """A thread that has to let go of a tensor while Python exits would abort the process."""
    program = tmp_path / "program.py"
    program.write_text(SHOW_THREADS)
    process = start(2, *SIMCLR, *words, "--quiet", "--out", tmp_path / "run", program=[program])
    code, out = finished(process)
    assert (code != 0) == (expected != 0), out
    assert out.count(f"exit code {expected} with of gloo") == 2, out
    assert out.count(told) == 1
    assert f"(exitcode: {expected})" in out or expected == 0
    assert "[rank" not in out  # a traceback


def test_lost_rank_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose(args: object, ranks: object) -> int:
        raise LostRankError("expected all 2 ranks to take part,\ngot: closed")

    monkeypatch.setattr("sslkern.cli.train._run", lose)
    assert main(["train"]) == 1
    error = "sslkern train: error: expected all 2 ranks to take part, got: closed\n"
    assert capsys.readouterr() == ("", error)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_first_rank_speaks(monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    assert train_ranks.is_first_here()
    monkeypatch.setenv("RANK", rank)
    assert train_ranks.is_first_here()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train_ranks.is_first_here() == (rank == "0")


def test_all_methods_are_not_for_several_processes() -> None:
    args = build_parser().parse_args(["train", "--all"])
    several: Any = types.SimpleNamespace(size=2)
    with pytest.raises(UserError, match="--all starts a process for each core itself"):
        train_command._prepare(args, several)
