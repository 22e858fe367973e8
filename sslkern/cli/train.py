"""``python -m sslkern train``: learn features of handwritten digits without labels."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import torch

from sslkern.cli import arguments
from sslkern.cli.errors import UserError
from sslkern.train import (
    CheckpointError,
    ConfigError,
    TrainConfig,
    TrainingError,
    load_checkpoint,
)
from sslkern.train.checkpoint import FILE_NAME, Checkpoint
from sslkern.train.config import DATA, DTYPES, LOSSES, METHODS

DEFAULTS = TrainConfig()
DEFAULT_THREADS = 1
"""The batches are small: a second thread saves half of the time on an idle machine and costs many
times as much on a busy one, and another number of cores would change the last bits."""

DESCRIPTION = """\
Trains a small convolutional encoder with SimCLR (NT-Xent loss) on the 1797 handwritten digits that
come with scikit-learn; nothing is downloaded. A random half of the images is trained on, without
labels. The other half is used for the accuracies only, which are also given for raw pixels and for
the encoder before training:
  linear      logistic regression on frozen features, labels of 100 random images of the training
              half, mean over 10 draws
  1-NN        nearest neighbour by cosine among the same 100 images
  5-NN        vote of the 5 nearest in the training half, with all its labels"""

EPILOG = """\
views: every image gives two, each drawn anew in every step, uniform within
  rotation    -20 to 20 degrees
  scale       1/1.25 to 1.25, width and height apart (on a logarithmic scale)
  shear       -0.25 to 0.25 widths per height
  shift       -1 to 1 pixel along both axes, fractions included
  contrast    ink times 0.8 to 1.2
  noise       Gaussian per pixel, standard deviation 0.1 (ink is 1); clipped to 0..1

files in the run folder; those of an earlier run there are replaced
  log.jsonl       step, epoch, loss and learning rate, one step a line
  checkpoint.pt   everything that the next step depends on
  summary.json    settings, accuracies, speed
  loss.png, embedding.png

A resumed run gives the same bits as an unbroken one on the same number of threads. It takes its
settings from the checkpoint.

examples
  python -m sslkern train --method simclr --data digits
  python -m sslkern train --resume runs/simclr-digits
  python -m sslkern train --loss reference --steps 50 --dtype float64 --out runs/reference"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``train`` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train on real data and probe what was learned",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_settings(parser)
    parser.add_argument(
        "--threads",
        type=arguments.positive_int,
        metavar="N",
        help=f"threads of PyTorch and of the kernels; default: {DEFAULT_THREADS}, which leaves "
        "the result to the settings alone, or that of the run that is resumed",
    )
    parser.add_argument(
        "--steps",
        type=arguments.positive_int,
        metavar="N",
        help="stop after step N, counted from the start of the run; the schedule stays that of "
        "--epochs, and --resume goes on",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="run folder; default: runs/METHOD-DATA, or that of the run that is resumed",
    )
    parser.add_argument(
        "--resume", type=Path, metavar="PATH", help="go on from a run folder or a checkpoint file"
    )
    parser.add_argument(
        "--checkpoint-every",
        type=arguments.positive_int,
        default=10,
        metavar="N",
        help="epochs from one checkpoint to the next; default: %(default)s",
    )
    parser.add_argument("--quiet", action="store_true", help="show the result only, no progress")
    parser.set_defaults(run=run)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """The fields of `TrainConfig`; one that is not given is absent, so that --resume can tell."""
    settings = parser.add_argument_group("settings of the run", argument_default=argparse.SUPPRESS)
    settings.add_argument("--method", choices=METHODS, help=f"default: {DEFAULTS.method}")
    settings.add_argument("--data", choices=DATA, help=f"default: {DEFAULTS.data}")
    settings.add_argument(
        "--loss",
        choices=LOSSES,
        help=f"the kernel, or its definition in eager PyTorch; default: {DEFAULTS.loss}",
    )
    settings.add_argument("--dtype", choices=DTYPES, help=f"default: {DEFAULTS.dtype}")
    settings.add_argument("--epochs", type=int, metavar="N", help=f"default: {DEFAULTS.epochs}")
    settings.add_argument(
        "--batch-size",
        type=int,
        metavar="B",
        help=f"images per step, each as two views; default: {DEFAULTS.batch_size}",
    )
    settings.add_argument(
        "--lr",
        type=float,
        metavar="LR",
        help="peak of the learning rate, which rises over a tenth of the steps and falls to 0 "
        f"as a cosine; default: {DEFAULTS.lr:g}",
    )
    settings.add_argument(
        "--temperature",
        type=float,
        metavar="TAU",
        help=f"of NT-Xent; default: {DEFAULTS.temperature:g}",
    )
    settings.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help=f"decides split, weights, order, views and labelled images; default: {DEFAULTS.seed}",
    )


def run(args: argparse.Namespace) -> int:
    """Train, probe, write, print. 130 if interrupted, with the way to go on."""
    for module in ("sklearn", "matplotlib", "rich"):
        arguments.require(module, "train")
    try:
        checkpoint = None if args.resume is None else load_checkpoint(args.resume)
        config = _config(args, checkpoint)
        folder = _folder(args, config, checkpoint)
        _set_threads(args.threads, checkpoint)
        return _run(args, config, folder, checkpoint)
    except (CheckpointError, ConfigError, TrainingError) as error:
        raise UserError(str(error)) from error


def _run(
    args: argparse.Namespace, config: TrainConfig, folder: Path, checkpoint: Checkpoint | None
) -> int:
    from rich.console import Console

    from sslkern.train.job import Job, run_job

    job = Job(config, folder, checkpoint, args.steps, args.checkpoint_every)
    try:
        run_job(job, Console(), Console(quiet=args.quiet))
    except KeyboardInterrupt:
        print(f"\nsslkern train: interrupted; {_way_on(folder)}", file=sys.stderr)
        return 130
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}") from error
    return 0


def _way_on(folder: Path) -> str:
    if not (folder / FILE_NAME).exists():
        return "there is no checkpoint yet"
    return (
        "the last checkpoint is whole, go on with: "
        f"python -m sslkern train --resume {shlex.quote(str(folder))}"
    )


def _config(args: argparse.Namespace, checkpoint: Checkpoint | None) -> TrainConfig:
    """The settings given, the others from the checkpoint or by default."""
    names = DEFAULTS.as_dict()
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    if checkpoint is None:
        return TrainConfig(**given)
    saved = checkpoint.config.as_dict()
    for name, value in given.items():
        if value != saved[name]:
            flag = name.replace("_", "-")
            raise UserError(
                f"{checkpoint.path} was written with --{flag} {saved[name]}, which --resume "
                f"cannot change to {value}"
            )
    return checkpoint.config


def _folder(args: argparse.Namespace, config: TrainConfig, checkpoint: Checkpoint | None) -> Path:
    """The run folder, made if absent."""
    if args.out is not None:
        folder = Path(args.out)
    elif checkpoint is not None:
        folder = checkpoint.path.parent
    else:
        folder = Path("runs") / f"{config.method}-{config.data}"
    arguments.check_writable(folder / FILE_NAME)
    return folder


def _set_threads(threads: int | None, checkpoint: Checkpoint | None) -> None:
    if threads is None:
        threads = DEFAULT_THREADS if checkpoint is None else checkpoint.threads
    torch.set_num_threads(threads)
