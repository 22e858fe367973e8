"""Training on the digits: views, data, SimCLR, exact resume, files, probes and the command."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

import sslkern
from sslkern.cli.main import main
from sslkern.data import AffineNoiseViews, Digits, load_digits, split_half
from sslkern.methods import SimCLR
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
from sslkern.train.plots import plot_embedding, plot_loss
from sslkern.train.probe import Features, encode, probe
from sslkern.train.progress import TrainProgress
from sslkern.train.seeds import PURPOSES, derived_seed

CONFIG = TrainConfig(epochs=3, batch_size=16, loss="reference")
CHECKPOINT = "checkpoint.pt"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the batches are too small to share


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


@pytest.fixture(scope="module")
def images(digits: Digits) -> torch.Tensor:
    return digits.images[:72]  # with batches of 16: four steps an epoch, eight images left out


@pytest.fixture
def few_digits(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command see 300 of the images, so that a run takes seconds."""
    few = digits.take(torch.arange(300))
    monkeypatch.setattr("sslkern.train.job.load_digits", lambda: few)


# --- data -----------------------------------------------------------------------------------------


def test_digits_are_images_between_paper_and_ink(digits: Digits) -> None:
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.dtype == torch.float32
    assert (digits.images.min(), digits.images.max()) == (0, 1)
    assert digits.labels.unique().tolist() == list(range(10))


def test_split_gives_every_image_to_one_half(digits: Digits) -> None:
    numbered = Digits(digits.images, torch.arange(len(digits)))
    train, test = split_half(numbered, generator())
    assert (len(train), len(test)) == (898, 899)
    together = torch.cat([train.labels, test.labels])
    assert torch.equal(together.sort().values, numbered.labels)
    assert torch.equal(train.images, digits.images[train.labels])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_views_keep_shape_dtype_and_range(images: torch.Tensor, dtype: torch.dtype) -> None:
    views = AffineNoiseViews()(images.to(dtype), generator())
    assert (views.shape, views.dtype) == (images.shape, dtype)
    assert views.min() >= 0
    assert views.max() <= 1
    assert not torch.equal(views, images.to(dtype))


def test_views_depend_on_the_generator_alone(images: torch.Tensor) -> None:
    views, source = AffineNoiseViews(), generator(7)
    state = source.get_state()
    first, second = views(images, source), views(images, source)
    torch.manual_seed(1)  # must not matter
    source.set_state(state)
    assert torch.equal(views(images, source), first)
    assert torch.equal(views(images, source), second)
    assert not torch.equal(first, second)


def test_views_with_empty_ranges_are_the_images(images: torch.Tensor) -> None:
    still = AffineNoiseViews(rotation=0, scale=1, shear=0, shift=0, contrast=0, noise=0)
    torch.testing.assert_close(still(images, generator()), images)


def centroids(images: torch.Tensor) -> torch.Tensor:
    """Centre of mass (B, 2) in pixels, row and column."""
    mass = images.sum((1, 2, 3))
    rows = (images.sum((1, 3)) @ torch.arange(images.shape[2], dtype=images.dtype)) / mass
    columns = (images.sum((1, 2)) @ torch.arange(images.shape[3], dtype=images.dtype)) / mass
    return torch.stack([rows, columns], 1)


def test_shift_is_measured_in_pixels() -> None:
    spot = torch.zeros(500, 1, 12, 8, dtype=torch.float64)
    spot[:, :, 5:7, 3:5] = 1
    shift = AffineNoiseViews(rotation=0, scale=1, shear=0, shift=1.5, contrast=0, noise=0)
    moved = (centroids(shift(spot, generator())) - centroids(spot)).abs()
    assert (moved.max(0).values <= 1.5 + 1e-9).all()
    assert (moved.max(0).values > 1.4).all()


def test_rotation_keeps_distances_when_the_image_is_not_square() -> None:
    spot = torch.zeros(200, 1, 32, 16, dtype=torch.float64)
    spot[:, :, 15:17, 12:14] = 1  # five columns right of the centre
    turn = AffineNoiseViews(rotation=90, scale=1, shear=0, shift=0, contrast=0, noise=0)
    offset = centroids(turn(spot, generator())) - torch.tensor([15.5, 7.5])
    assert (offset.norm(dim=1) - 5).abs().max() < 0.1
    assert offset[:, 0].abs().max() > 4.5


# --- SimCLR ---------------------------------------------------------------------------------------


def test_simclr_is_the_loss_of_the_projections_of_one_batch() -> None:
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8))
    model = SimCLR(encoder, 8, projection_dim=5, temperature=0.3).double()
    view_a, view_b = torch.rand(2, 6, 1, 8, 8, dtype=torch.float64)
    z = model.head(encoder(torch.cat([view_a, view_b])))
    assert z.shape == (12, 5)
    expected = sslkern.reference.ntxent_loss(z[:6], z[6:], 0.3)
    torch.testing.assert_close(model(view_a, view_b), expected)


def test_simclr_calls_the_loss_that_it_is_given() -> None:
    calls = []

    def loss(z_a: torch.Tensor, z_b: torch.Tensor, temperature: float) -> torch.Tensor:
        calls.append((z_a.shape, z_b.shape, temperature))
        return z_a.sum()

    model = SimCLR(
        torch.nn.Identity(), 4, hidden_dim=7, projection_dim=3, temperature=0.1, loss=loss
    )
    model(torch.rand(5, 4), torch.rand(5, 4)).backward()
    assert calls == [((5, 3), (5, 3), 0.1)]


def test_simclr_rejects_shapes_that_do_not_fit() -> None:
    model = SimCLR(torch.nn.Identity(), 4)
    with pytest.raises(ValueError, match=r"expected view_b .* \(5, 4\), got \(6, 4\)"):
        model(torch.rand(5, 4), torch.rand(6, 4))
    with pytest.raises(ValueError, match=r"expected encoder .* \(10, 4\).*, got \(10, 3\)"):
        model(torch.rand(5, 3), torch.rand(5, 3))


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


def test_weights_come_from_the_seed_and_leave_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = torch.cat([p.flatten() for p in build_model(CONFIG).parameters()])
    assert torch.equal(torch.rand(4), expected)
    again = torch.cat([p.flatten() for p in build_model(CONFIG).parameters()])
    assert torch.equal(first, again)


def test_loss_falls(images: torch.Tensor, tmp_path: Path) -> None:
    trainer = Trainer(TrainConfig(epochs=10, batch_size=16, loss="reference"), images)
    fit(trainer, tmp_path)
    assert len(trainer.history) == 40
    assert sum(losses(trainer)[-5:]) < sum(losses(trainer)[:5])


def test_log_has_one_record_per_step(images: torch.Tensor, tmp_path: Path) -> None:
    trainer = Trainer(CONFIG, images)
    fit(trainer, tmp_path)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert records == trainer.history
    assert [record["step"] for record in records] == list(range(1, 13))
    assert [record["epoch"] for record in records] == [1] * 4 + [2] * 4 + [3] * 4


def test_loss_that_is_not_finite_stops_the_run(images: torch.Tensor, tmp_path: Path) -> None:
    trainer = Trainer(CONFIG, images * torch.nan)
    with pytest.raises(TrainingError, match="the loss is nan at step 1: try a lower --lr"):
        fit(trainer, tmp_path)


@pytest.mark.parametrize(
    ("config", "steps", "tolerance"),
    [
        # A low rate, because at the default one float32 runs may be 1e-3 apart after ten steps as
        # soon as anything rounds differently (the views swapped in the reference are enough): one
        # ReLU switches, and AdamW makes whole steps of the smallest gradients.
        (TrainConfig(dtype="float32", batch_size=32, epochs=200, lr=3e-4), 10, 1e-4),
        (TrainConfig(dtype="float64", batch_size=8, epochs=10), 50, 1e-8),
    ],
    ids=["float32", "float64"],
)
def test_fused_and_reference_train_alike(
    images: torch.Tensor, config: TrainConfig, steps: int, tolerance: float
) -> None:
    runs = []
    for loss in ("fused", "reference"):
        trainer = Trainer(dataclasses.replace(config, loss=loss), images)
        runs.append([trainer.run_step()["loss"] for _ in range(steps)])
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=tolerance)
    assert abs(runs[0][-1] - runs[0][0]) > 100 * tolerance  # there was something to agree on


# --- checkpoints ----------------------------------------------------------------------------------


def resume(folder: Path, images: torch.Tensor) -> Trainer:
    checkpoint = load_checkpoint(folder)
    trainer = Trainer(checkpoint.config, images)
    trainer.load_state_dict(checkpoint.trainer)
    return trainer


@pytest.fixture
def checkpoint(images: torch.Tensor, tmp_path: Path) -> Path:
    fit(Trainer(CONFIG, images), tmp_path, stop_after=2)
    return tmp_path / CHECKPOINT


@pytest.mark.parametrize("loss", ["fused", "reference"])
@pytest.mark.parametrize("stop_after", [4, 6])  # between two epochs, within one
def test_resumed_run_equals_the_unbroken_one(
    images: torch.Tensor, tmp_path: Path, loss: str, stop_after: int
) -> None:
    config = TrainConfig(epochs=3, batch_size=16, loss=loss)
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
    images: torch.Tensor, tmp_path: Path
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
    checkpoint: Path, images: torch.Tensor
) -> None:
    def interrupt(record: Record, rate: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            Trainer(TrainConfig(seed=5, batch_size=16), images),
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
        (saved({"format": "sslkern-train", "version": 99}), "of version 99, expected 1"),
        (saved({"format": "sslkern-train", "version": 1, "config": {}}), "lacks threads, trainer"),
        (saved(TrainConfig()), "not a checkpoint"),  # weights_only runs no foreign code
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


def test_encoding_uses_and_restores_the_mode(images: torch.Tensor) -> None:
    encoder = build_model(CONFIG).encoder
    encoder.train()
    together = encode(encoder, images)
    assert encoder.training
    assert not together.requires_grad
    torch.testing.assert_close(encode(encoder, images[:3]), together[:3])  # no batch statistics


def test_plots_are_png_files(tmp_path: Path) -> None:
    history: list[Record] = [{"step": 1, "epoch": 1, "loss": 3.0, "lr": 0.1}]
    features = blobs(5)
    plot_loss(history, "loss", tmp_path / "loss.png")
    shown = {"left": features.test[:30], "right": features.test[:30]}
    plot_embedding(shown, features.test_labels[:30], 0, "map", tmp_path / "map.png")
    for name in ("loss.png", "map.png"):
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
    assert "loss 0.5000  1234 images/s" in text.getvalue()
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
    assert "SimCLR encoder" in out
    assert "4 of 6 steps" in out
    code, out, err = command("--resume", folder, "--quiet")
    assert (code, err) == (0, "")
    assert "6 of 6 steps" in out
    assert "images/s\n" not in out  # a line of progress
    names = {"checkpoint.pt", "log.jsonl", "summary.json", "loss.png", "embedding.png"}
    assert {path.name for path in folder.iterdir()} == names
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["config"]["epochs"] == 2
    assert summary["threads"] == 1  # that of the checkpoint
    assert list(summary["accuracy"]) == ["raw pixels", "untrained encoder", "SimCLR encoder"]
    assert summary["accuracy"]["raw pixels"]["linear"] > 0.8

    whole = tmp_path / "whole"
    assert command(*SMALL, "--out", whole, "--threads", "1")[0] == 0
    assert (whole / "log.jsonl").read_bytes() == (folder / "log.jsonl").read_bytes()
    unbroken = json.loads((whole / "summary.json").read_text())
    assert unbroken["accuracy"] == summary["accuracy"]


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
        (("--temperature", "0"), "expected --temperature to be positive and finite, got 0"),
        (("--temperature", "nan"), "expected --temperature to be positive and finite, got nan"),
        (("--lr", "inf"), "expected --lr to be positive and finite, got inf"),
        (("--seed", "-1"), "expected --seed to be between 0 and"),
        (("--steps", "0"), "--steps: expected an integer of at least 1"),
        (("--threads", "0"), "--threads: expected an integer of at least 1"),
        (("--checkpoint-every", "0"), "--checkpoint-every: expected an integer of at least 1"),
        (("--method", "byol"), "--method: invalid choice: 'byol'"),
        (("--epochs", "many"), "--epochs: invalid int value: 'many'"),
        (("--resume", "nowhere"), "nowhere does not exist"),
    ],
)
def test_bad_argument_is_one_line(
    command: Command, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    code, out, err = command("--out", tmp_path / "run", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


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
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Digits
) -> None:
    broken = Digits(digits.images * torch.nan, digits.labels)
    monkeypatch.setattr("sslkern.train.job.load_digits", lambda: broken)
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
