"""Training: the loop, exact resume, files, probes and the command."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from sslkern.cli.main import main
from sslkern.data import LabelledImages, load_digits
from sslkern.train import (
    CheckpointError,
    TrainConfig,
    Trainer,
    TrainingError,
    fit,
    load_checkpoint,
    save_checkpoint,
)
from sslkern.train.engine import Record, build_model, lr_factor
from sslkern.train.plots import plot_collapse, plot_embedding, plot_loss
from sslkern.train.probe import Features, encode, probe
from sslkern.train.progress import TrainProgress
from sslkern.train.recipe import Evidence
from sslkern.train.recipes import load_recipe
from sslkern.train.seeds import PURPOSES, derived_seed
from sslkern.train.table import run_one, table

REFERENCE = {"loss": "reference"}
CONFIG = TrainConfig.of(epochs=3, batch_size=16, options=REFERENCE)
CHECKPOINT = "checkpoint.pt"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the batches are too small to share


@pytest.fixture(scope="module")
def digits() -> LabelledImages:
    return load_digits()


@pytest.fixture(scope="module")
def images(digits: LabelledImages) -> LabelledImages:
    return digits.take(
        torch.arange(72)
    )  # with batches of 16: four steps an epoch, eight images left out


@pytest.fixture
def few_digits(digits: LabelledImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command see 300 of the images, so that a run takes seconds."""
    few = digits.take(torch.arange(300))
    monkeypatch.setattr("sslkern.train.job.load_data", lambda name: few)


# --- the loop -------------------------------------------------------------------------------------


def losses(trainer: Trainer) -> list[float]:
    return [record["loss"] for record in trainer.history]


def test_learning_rate_rises_and_falls_to_zero() -> None:
    factors = [lr_factor(step, 100) for step in range(101)]
    assert max(factors) == factors[9] == 1
    assert factors[:9] == sorted(factors[:9])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0)
    assert lr_factor(0, 1) == 1


def test_purposes_and_seeds_share_no_stream() -> None:
    seeds = {derived_seed(seed, purpose) for seed in range(5) for purpose in PURPOSES}
    assert len(seeds) == 5 * len(PURPOSES)


def test_weights_come_from_the_seed_and_leave_the_global_generator(
    images: LabelledImages,
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = torch.cat([p.flatten() for p in build_model(CONFIG, images).parameters()])
    assert torch.equal(torch.rand(4), expected)
    again = torch.cat([p.flatten() for p in build_model(CONFIG, images).parameters()])
    assert torch.equal(first, again)


def test_loss_falls(images: LabelledImages, tmp_path: Path) -> None:
    trainer = Trainer(TrainConfig.of(epochs=10, batch_size=16, options=REFERENCE), images)
    fit(trainer, tmp_path)
    assert len(trainer.history) == 40
    assert sum(losses(trainer)[-5:]) < sum(losses(trainer)[:5])


def test_log_has_one_record_per_step(images: LabelledImages, tmp_path: Path) -> None:
    trainer = Trainer(CONFIG, images)
    fit(trainer, tmp_path)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert records == trainer.history
    watched = {"std", "rankme", "alignment", "uniformity", "accuracy"}
    assert [record.keys() >= watched for record in records] == [False, False, False, True] * 3
    assert [record["step"] for record in records] == list(range(1, 13))
    assert [record["epoch"] for record in records] == [1] * 4 + [2] * 4 + [3] * 4


def test_loss_that_is_not_finite_stops_the_run(images: LabelledImages, tmp_path: Path) -> None:
    trainer = Trainer(CONFIG, dataclasses.replace(images, images=images.images * torch.nan))
    with pytest.raises(TrainingError, match="the loss is nan at step 1: try a lower --lr"):
        fit(trainer, tmp_path)


@pytest.mark.parametrize(
    ("config", "steps", "tolerance"),
    [
        # A low rate, because at the default one float32 runs may be 1e-3 apart after ten steps as
        # soon as anything rounds differently (the views swapped in the reference are enough): one
        # ReLU switches, and AdamW makes whole steps of the smallest gradients.
        (TrainConfig.of(dtype="float32", batch_size=32, epochs=200, lr=3e-4), 10, 1e-4),
        (TrainConfig.of(dtype="float64", batch_size=8, epochs=10), 50, 1e-8),
    ],
    ids=["float32", "float64"],
)
def test_fused_and_reference_train_alike(
    images: LabelledImages, config: TrainConfig, steps: int, tolerance: float
) -> None:
    runs = []
    for loss in ("fused", "reference"):
        trainer = Trainer(
            dataclasses.replace(config, options={**config.options, "loss": loss}), images
        )
        runs.append([trainer.run_step()["loss"] for _ in range(steps)])
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=tolerance)
    assert abs(runs[0][-1] - runs[0][0]) > 100 * tolerance  # there was something to agree on


# --- checkpoints ----------------------------------------------------------------------------------


def resume(folder: Path, images: LabelledImages) -> Trainer:
    checkpoint = load_checkpoint(folder)
    trainer = Trainer(checkpoint.config, images)
    trainer.load_state_dict(checkpoint.trainer)
    return trainer


@pytest.fixture
def checkpoint(images: LabelledImages, tmp_path: Path) -> Path:
    fit(Trainer(CONFIG, images), tmp_path, stop_after=2)
    return tmp_path / CHECKPOINT


@pytest.mark.parametrize("loss", ["fused", "reference"])
@pytest.mark.parametrize("stop_after", [4, 6])  # between two epochs, within one
def test_resumed_run_equals_the_unbroken_one(
    images: LabelledImages, tmp_path: Path, loss: str, stop_after: int
) -> None:
    config = TrainConfig.of(epochs=3, batch_size=16, options={"loss": loss})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    unbroken = Trainer(config, images)
    fit(unbroken, whole)
    fit(Trainer(config, images), broken, stop_after=stop_after)
    resumed = resume(broken, images)
    assert resumed.step == stop_after
    fit(resumed, broken)
    assert losses(resumed) == losses(unbroken)
    assert (broken / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()
    expected = unbroken.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_interrupted_run_can_be_resumed_and_leaves_whole_files(
    images: LabelledImages, tmp_path: Path
) -> None:
    def interrupt(record: Record, rate: float) -> None:
        if record["step"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(Trainer(CONFIG, images), tmp_path, checkpoint_every=1, on_step=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, "log.jsonl"]
    resumed, unbroken = resume(tmp_path, images), Trainer(CONFIG, images)
    assert resumed.step == 4
    fit(resumed, tmp_path)
    (tmp_path / "unbroken").mkdir()
    fit(unbroken, tmp_path / "unbroken")
    assert losses(resumed) == losses(unbroken)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 12


def test_fresh_run_replaces_the_checkpoint_before_its_first_step(
    checkpoint: Path, images: LabelledImages
) -> None:
    def interrupt(record: Record, rate: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            Trainer(TrainConfig.of(seed=5, batch_size=16), images),
            checkpoint.parent,
            on_step=interrupt,
        )
    found = load_checkpoint(checkpoint)
    assert found.config.seed == 5
    assert found.trainer["history"] == []


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_checkpoint_is_named(checkpoint: Path, share: float) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is truncated, damaged or not a"):
        load_checkpoint(checkpoint)


def test_flipped_byte_is_found(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 0xFF  # inside a tensor
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is truncated, damaged or not a"):
        load_checkpoint(checkpoint)


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a checkpoint", "not a checkpoint"),
        (saved({"model": {}}), "is not a checkpoint of sslkern train"),
        (saved([1, 2]), "is not a checkpoint of sslkern train"),
        (saved({"format": "sslkern-train", "version": 99}), "of version 99, expected 2"),
        (saved({"format": "sslkern-train", "version": 2, "config": {}}), "lacks threads, trainer"),
        (saved(TrainConfig.of()), "not a checkpoint"),  # weights_only runs no foreign code
    ],
)
def test_foreign_checkpoint_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "foreign.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"foreign\.pt .*{message}"):
        load_checkpoint(path)


def test_absent_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt does not exist"):
        load_checkpoint(tmp_path)


# --- probes, plots, progress ----------------------------------------------------------------------


def blobs(separation: float) -> Features:
    """Ten Gaussian blobs in 16 dimensions, ``separation`` standard deviations from the origin."""
    source = generator(1)
    labels = torch.arange(10).repeat(40)
    points = torch.randn(400, 16, generator=source)
    points[torch.arange(400), labels] += separation
    return Features(points[:200], labels[:200], points[200:], labels[200:])


def test_probes_solve_what_is_separable() -> None:
    result = probe(blobs(20), generator(), draws=3)
    assert result.linear == result.nearest == result.knn == 1
    assert result.linear_std == 0


def test_probes_are_at_chance_without_information() -> None:
    result = probe(blobs(0), generator(), draws=3)
    assert max(result.linear, result.nearest, result.knn) < 0.2


def test_probes_do_not_depend_on_scale_and_offset() -> None:
    features = blobs(2)
    train, test = features.train * 1000 + 5, features.test * 1000 + 5
    moved = Features(train, features.train_labels, test, features.test_labels)
    expected, result = probe(features, generator(), draws=2), probe(moved, generator(), draws=2)
    assert result.linear == pytest.approx(expected.linear, abs=0.02)
    assert result.knn == pytest.approx(expected.knn, abs=0.02)


def test_encoding_uses_and_restores_the_mode(images: LabelledImages) -> None:
    encoder = build_model(CONFIG, images).encoder
    encoder.train()
    together = encode(encoder, images.images)
    assert encoder.training
    assert not together.requires_grad
    torch.testing.assert_close(
        encode(encoder, images.images[:3]), together[:3]
    )  # no batch statistics


def test_plots_are_png_files(tmp_path: Path) -> None:
    history: list[Record] = [{"step": 1, "epoch": 1, "loss": 3.0, "lr": 0.1}]
    features = blobs(5)
    plot_loss(history, "loss", tmp_path / "loss.png")
    plot_collapse([{**history[0], "std": 1.0, "rankme": 9.0}], "std", tmp_path / "collapse.png")
    shown = {"left": features.test[:30], "right": features.test[:30]}
    plot_embedding(shown, features.test_labels[:30], "0123456789", 0, "map", tmp_path / "map.png")
    for name in ("loss.png", "collapse.png", "map.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG_SIGNATURE)


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_epoch_loss_and_speed(terminal: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100)
    with TrainProgress(console, epochs=40, steps_per_epoch=2) as progress:
        for step in range(80):
            record: Record = {"step": step + 1, "epoch": step // 2 + 1, "loss": step % 2, "lr": 0.1}
            progress.step(record, 1234.0)
    assert "epoch 40/40" in text.getvalue()
    assert "loss 0.5000  1234 samples/s" in text.getvalue()
    if not terminal:
        assert len(text.getvalue().splitlines()) == 20


# --- the command ----------------------------------------------------------------------------------

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``sslkern train`` in this process; exit code, standard output and error."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        try:
            code = main(["train", *map(str, words)])
        except SystemExit as exit_:  # argparse
            code = int(exit_.code or 0)
        return code, *capsys.readouterr()

    return run


SMALL = ("--epochs", "2", "--batch-size", "50")


@pytest.mark.usefixtures("few_digits")
def test_command_trains_stops_and_resumes(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, out, err = command(*SMALL, "--out", folder, "--threads", "1", "--steps", "4")
    assert (code, err) == (0, "")
    assert "SimCLR: measures" in out
    assert "4 of 6 steps" in out
    code, out, err = command("--resume", folder, "--quiet")
    assert (code, err) == (0, "")
    assert "6 of 6 steps" in out
    assert "samples/s\n" not in out  # a line of progress
    pictures = {"loss.png", "collapse.png", "embedding.png"}
    names = {"checkpoint.pt", "log.jsonl", "summary.json", *pictures}
    assert {path.name for path in folder.iterdir()} == names
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["config"]["epochs"] == 2
    assert summary["threads"] == 1  # that of the checkpoint
    assert list(summary["measures"]) == ["raw pixels", "untrained", "trained"]
    assert summary["measures"]["raw pixels"]["linear"] > 0.8

    whole = tmp_path / "whole"
    assert command(*SMALL, "--out", whole, "--threads", "1")[0] == 0
    assert (whole / "log.jsonl").read_bytes() == (folder / "log.jsonl").read_bytes()
    unbroken = json.loads((whole / "summary.json").read_text())
    assert unbroken["measures"] == summary["measures"]


@pytest.mark.usefixtures("few_digits")
def test_command_says_how_to_go_on_when_interrupted(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: TrainProgress, record: Record, rate: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainProgress, "step", interrupt)
    code, _, err = command(*SMALL, "--out", tmp_path)
    assert code == 130
    assert f"sslkern train --resume {tmp_path}" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, "log.jsonl"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--epochs", "0"), "expected --epochs to be at least 1, got 0"),
        (("--batch-size", "1"), "expected --batch-size to be at least 2, got 1"),
        (("--batch-size", "899"), "expected --batch-size to be at most 898"),
        (("--set", "temperature=0"), "SimCLR: expected temperature to be positive and finite"),
        (("--set", "temperature=hot"), "expected --set temperature to be of type float, got 'hot'"),
        (("--set", "temperature"), "expected --set to be NAME=VALUE, got temperature"),
        (("--set", "heat=1"), "expected --set to be an option of simclr (temperature, "),
        (("--set", "loss=fast"), "SimCLR: expected loss to be fused or reference, got fast"),
        (("--data", "text"), "expected --data to be one of digits, photos, mnist1d, got text"),
        (("--amp", "--dtype", "float64"), "expected --dtype to be float32 with --amp"),
        (("--config", "nowhere.toml"), "nowhere.toml cannot be read"),
        (("--lr", "inf"), "expected --lr to be positive and finite, got inf"),
        (("--seed", "-1"), "expected --seed to be between 0 and"),
        (("--steps", "0"), "--steps: expected an integer of at least 1"),
        (("--threads", "0"), "--threads: expected an integer of at least 1"),
        (("--checkpoint-every", "0"), "--checkpoint-every: expected an integer of at least 1"),
        (("--method", "best"), "expected --method to be one of "),
        (("--epochs", "many"), "--epochs: invalid int value: 'many'"),
        (("--resume", "nowhere"), "nowhere does not exist"),
        (
            ("--all", "--lr", "1", "--steps", "3"),
            "--all takes none of the settings of one run, got --lr, --steps",
        ),
    ],
)
def test_bad_argument_is_one_line(
    command: Command, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    code, out, err = command("--out", tmp_path / "run", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("few_digits")
def test_run_that_stops_within_the_first_epoch_has_no_curves_of_collapse(
    command: Command, tmp_path: Path
) -> None:
    code, _, err = command(*SMALL, "--out", tmp_path, "--quiet", "--steps", "1")
    assert (code, err) == (0, "")
    assert {path.name for path in tmp_path.glob("*.png")} == {"loss.png", "embedding.png"}
    assert json.loads((tmp_path / "summary.json").read_text())["collapse"] == {}


def test_settings_that_contradict_the_checkpoint_are_named(
    command: Command, checkpoint: Path
) -> None:
    code, _, err = command("--resume", checkpoint, "--batch-size", "32")
    assert code == 2
    assert f"{checkpoint} was written with --batch-size 16" in err


def test_checkpoint_of_another_model_is_named(command: Command, tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    save_checkpoint(path, CONFIG, 1, {"model": {"weight": torch.ones(1)}})
    code, _, err = command("--resume", path)
    assert code == 2
    assert f"{path} does not fit this run" in err
    assert len(err.splitlines()) == 1


def test_folder_that_is_a_file_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    code, _, err = command("--out", tmp_path / "run")
    assert code == 2
    assert str(tmp_path / "run") in err


def test_loss_that_is_not_finite_is_a_user_error(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: LabelledImages
) -> None:
    broken = dataclasses.replace(digits, images=digits.images * torch.nan)
    monkeypatch.setattr("sslkern.train.job.load_data", lambda name: broken)
    code, _, err = command("--out", tmp_path)
    assert code == 2
    assert "the loss is nan at step 1" in err


@pytest.mark.parametrize("module", ["sklearn", "matplotlib", "rich"])
def test_missing_library_is_named_with_the_remedy(
    command: Command, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = command()
    assert code == 2
    assert f"{module} does not import" in err
    assert "pip install 'sslkern[train]'" in err


# --- settings -------------------------------------------------------------------------------------


def test_file_gives_settings_and_flags_go_before_it(
    command: Command, tmp_path: Path, few_digits: None
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'method = "simclr"\nepochs = 1\nbatch-size = 40\n[options]\ntemperature = 0.2\n'
    )
    words = ("--config", file, "--batch-size", "50", "--out", tmp_path, "--quiet")
    assert command(*words, "--set", "projection_dim=8")[0] == 0
    config = json.loads((tmp_path / "summary.json").read_text())["config"]
    assert (config["epochs"], config["batch_size"]) == (1, 50)
    assert config["options"] == {"temperature": 0.2, "projection_dim": 8, "loss": "fused"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epochs = ", "is not TOML"),
        ("epoch = 3", "sets epoch, expected one of method, data, epochs"),
        ('epochs = "3"', "expected epochs of .* to be of type int, got '3'"),
        ("epochs = true", "expected epochs of .* to be of type int, got True"),
        ("options = 3", "expected options of .* to be of type"),
        ("[options]\nloss = 1", "SimCLR: expected loss to be fused or reference, got 1"),
    ],
)
def test_bad_file_is_named(command: Command, tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(content)
    code, _, err = command("--config", file, "--out", tmp_path / "run")
    assert code == 2
    assert re.search(message, err)


def test_list_names_methods_data_and_options(command: Command) -> None:
    code, out, _ = command("--list")
    assert code == 0
    assert "simclr" in out
    assert "temperature=0.5 projection_dim=64 loss=fused" in out


def test_autocast_and_compile_train(images: LabelledImages) -> None:
    steps = {}
    for name, flags in (("plain", {}), ("amp", {"amp": True}), ("compile", {"compile": True})):
        trainer = Trainer(TrainConfig.of(batch_size=16, options=REFERENCE, **flags), images)
        if name == "compile":  # the default backend compiles for half a minute
            trainer._call = torch.compile(trainer.model, backend="aot_eager")
        steps[name] = [trainer.run_step()["loss"] for _ in range(2)]
    assert steps["compile"] == pytest.approx(steps["plain"], abs=1e-4)
    assert steps["amp"] == pytest.approx(steps["plain"], abs=0.05)
    assert steps["amp"] != steps["plain"]


@pytest.mark.usefixtures("few_digits")
def test_tensorboard_gets_every_number_where_it_is_installed(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, dict[int, float]] = {}

    class Writer:
        def __init__(self, folder: str) -> None:
            (Path(folder) / "events.out.tfevents.1").write_text("")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.setdefault(name, {})[step] = value

        def close(self) -> None:
            written["closed"] = {}

    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    (tmp_path / "events.out.tfevents.0").write_text("of an earlier run")
    assert command(*SMALL, "--out", tmp_path, "--quiet")[0] == 0
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert written["loss"] == {record["step"]: record["loss"] for record in records}
    assert list(written["std"]) == [3, 6]  # ends of epochs
    assert "closed" in written
    assert [path.name for path in tmp_path.glob("events.*")] == ["events.out.tfevents.1"]


# --- evidence -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("higher", "after", "gain", "holds"),
    [
        (True, 0.55, 0.05, False),
        (True, 0.65, 0.15, True),
        (False, 0.35, 0.15, True),
        (False, 0.65, -0.15, False),
        (True, float("nan"), float("nan"), False),
    ],
)
def test_evidence_is_a_gain_of_the_margin(
    higher: bool, after: float, gain: float, holds: bool
) -> None:
    evidence = Evidence("score", 0.1, higher=higher)
    before, measured = {"score": 0.5}, {"score": after}
    assert evidence.gain(before, measured) == pytest.approx(gain, nan_ok=True)
    assert evidence.holds(before, measured) == holds


@pytest.mark.usefixtures("few_digits")
def test_table_marks_what_missed_and_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, recipe = [], load_recipe("simclr")
    for margin in (-2.0, 2.0):
        changed = dataclasses.replace(recipe, evidence=Evidence("linear", margin), quick=1)
        monkeypatch.setattr("sslkern.train.engine.load_recipe", lambda name, r=changed: r)
        rows.append(run_one("simclr", tmp_path / "run", quick=True, seed=0))
    monkeypatch.setattr("sslkern.train.job.load_data", lambda name: 1 / 0)
    rows.append(run_one("simclr", tmp_path / "failed", quick=True, seed=0))
    text = io.StringIO()
    Console(file=text, width=200).print(table(rows))
    assert [row["holds"] for row in rows] == [True, False, False]
    lines = [line.rstrip() for line in text.getvalue().splitlines() if "SimCLR" in line]
    assert "missed" not in lines[0]
    assert lines[1].endswith("missed")
    assert lines[2].endswith("ZeroDivisionError: division by zero")
