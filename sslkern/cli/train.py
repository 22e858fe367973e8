"""``python -m sslkern train``: learn without labels on data that needs no download."""

from __future__ import annotations

import argparse
import gc
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from sslkern.cli import arguments
from sslkern.cli.errors import UserError
from sslkern.parallel.spread import LostRankError
from sslkern.train import (
    CheckpointError,
    ConfigError,
    TrainConfig,
    TrainingError,
    load_checkpoint,
)
from sslkern.train.checkpoint import FILE_NAME, Checkpoint
from sslkern.train.config import DTYPES, parse_options, read_config
from sslkern.train.ranks import Ranks, is_first_here, started_ranks
from sslkern.train.recipes import load_recipe, recipe_names

DEFAULT_METHOD = "simclr"
DEFAULT_THREADS = 1
"""The batches are small: a second thread saves half of the time on an idle machine and costs many
times as much on a busy one, and another number of cores would change the last bits."""

LIBRARIES = ("sklearn", "matplotlib", "rich")

DESCRIPTION = """\
Trains a method at small scale on a random half of a data set, without labels (but for SupCon), and
measures it before and after: probes of a frozen encoder, perplexity of a language model, what the
method's recipe names. Nothing is downloaded. `--all` trains every method and prints one table.
Probes of images, on the other half of the samples, which training has not seen:
  linear      logistic regression on frozen features, labels of 100 random images of the training
              half, mean over 10 draws
  nearest     nearest neighbour by cosine among the same 100 images
  knn         vote of the 5 nearest in the training half, with all its labels"""

EPILOG = """\
files in the run folder; those of an earlier run there are replaced
  log.jsonl       step, epoch, loss and learning rate, one step a line; after an epoch's last step
                  also std, rank, alignment, uniformity and accuracy of embeddings
  checkpoint.pt   everything that the next step depends on
  summary.json    settings, measures, speed
  *.png           curves of the loss and of collapse, a map of the features, what a method shows
  events.*        the same numbers for TensorBoard, where it is installed

A resumed run gives the same bits as an unbroken one on the same number of threads and processes. It
takes its settings from the checkpoint.

several processes give the result of one, but for rounding:
  python -m torch.distributed.run --nproc_per_node 4 -m sslkern train --method byol
Each encodes its part of a batch, --batch-size samples of all of them together; so do decoders,
generators, discriminators and teachers, and batch norms see all parts. Data, heads, losses, queues
and the optimizer are the same on each process and not divided. With --compile what is divided stays
eager. The first process alone writes and prints; --resume takes any number of them.

a configuration file has the names of the flags, and a table of the method's options:
  method = "moco_v2"
  epochs = 20
  [options]
  queue_size = 512

examples
  python -m sslkern train --method simclr --data digits
  python -m sslkern train --method moco_v2 --data photos --set temperature=0.1 --set queue_size=512
  python -m sslkern train --list
  python -m sslkern train --resume runs/simclr-digits
  python -m sslkern train --all --quick"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``train`` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train a method on real data and measure what was learned",
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
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings in TOML; flags go before them"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few epochs: those that show that a method learns"
    )
    parser.add_argument("--all", action="store_true", help="every method, one table")
    parser.add_argument("--list", action="store_true", help="print methods, data and options")
    parser.add_argument("--quiet", action="store_true", help="show the result only, no progress")
    parser.set_defaults(run=run)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """The fields of `TrainConfig`; one that is not given is absent, so that --resume can tell."""
    settings = parser.add_argument_group(
        "settings of the run; what is not given is the method's own",
        argument_default=argparse.SUPPRESS,
    )
    settings.add_argument("--method", metavar="NAME", help=f"default: {DEFAULT_METHOD}")
    settings.add_argument("--data", metavar="NAME", help="one that the method can use")
    settings.add_argument("--dtype", choices=DTYPES, help="default: float32")
    settings.add_argument("--epochs", type=int, metavar="N")
    settings.add_argument("--batch-size", type=int, metavar="B", help="samples per step")
    settings.add_argument(
        "--lr",
        type=float,
        metavar="LR",
        help="peak of the learning rate, which rises over a tenth of the steps and falls to 0 "
        "as a cosine",
    )
    settings.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help="decides split, weights, order, views and labelled samples; default: 0",
    )
    settings.add_argument("--amp", action="store_true", help="autocast to bfloat16")
    settings.add_argument("--compile", action="store_true", help="torch.compile the method")
    settings.add_argument(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="an option of the method; may be repeated. --list shows all",
    )


def run(args: argparse.Namespace) -> int:
    """Train, measure, write, print. 130 if interrupted, with the way to go on; 1 if a rank is lost.

    Of several processes the first one alone prints, also what all have raised.
    """
    try:
        return _run_on_ranks(args)
    finally:
        gc.collect()  # An error's frames may hold the group, and with it threads of its own.


def _run_on_ranks(args: argparse.Namespace) -> int:
    try:
        with started_ranks() as ranks:
            try:
                return _run(args, ranks)
            except UserError as error:
                if ranks.size == 1:
                    raise
                return _fail(error, ranks)
    except LostRankError as error:
        if is_first_here():
            _print_error(error)
        return 1
    except KeyboardInterrupt:
        if is_first_here():
            raise
        return 130


def _fail(error: UserError, ranks: Ranks) -> int:
    """The end of a run of several processes, of which all mostly have the same error."""
    if ranks.is_first:
        _print_error(error)
    if not ranks.all_leave() and not ranks.is_first:
        _print_error(error)
    return 2


def _print_error(error: Exception) -> None:
    print(f"sslkern train: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def _run(args: argparse.Namespace, ranks: Ranks) -> int:
    try:
        prepared = ranks.of_first(lambda: _prepare(args, ranks))
        if isinstance(prepared, int):
            return prepared
        config, folder, checkpoint = prepared
        _set_threads(args.threads, checkpoint)
        return _train(args, ranks, config, folder, checkpoint)
    except (CheckpointError, ConfigError, TrainingError, ImportError) as error:
        raise UserError(str(error)) from error


def _prepare(
    args: argparse.Namespace, ranks: Ranks
) -> int | tuple[TrainConfig, Path, Checkpoint | None]:
    """What is to be trained and where, or an exit code if that is all."""
    for module in LIBRARIES:
        arguments.require(module, "train")
    if args.list:
        return _print_list()
    if args.all:
        return _run_all(args, ranks)
    checkpoint = None if args.resume is None else load_checkpoint(args.resume)
    config = _config(args, checkpoint)
    return config, _folder(args, config, checkpoint), checkpoint


def _print_list() -> int:
    for name in recipe_names():
        recipe = load_recipe(name)
        options = " ".join(f"{key}={value}" for key, value in recipe.options.items())
        print(f"{name:<24}{', '.join(recipe.data)}\n{'':<24}{options}")
    return 0


def _run_all(args: argparse.Namespace, ranks: Ranks) -> int:
    from rich.console import Console

    from sslkern.train.table import run_all

    if ranks.size > 1:
        raise UserError("--all starts a process for each core itself, got several of them")
    given = [name for name in (*SETTINGS, "set") if name != "seed" and hasattr(args, name)]
    given += [name for name in ("resume", "config", "steps") if getattr(args, name) is not None]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"--all takes none of the settings of one run, got {flags}")
    folder = Path("runs/all") if args.out is None else Path(args.out)
    arguments.check_writable(folder / "summary.json")
    try:
        console = Console(width=None if sys.stdout.isatty() else 140)
        return run_all(folder, console, quick=args.quick, seed=getattr(args, "seed", 0))
    except KeyboardInterrupt:
        print("\nsslkern train: interrupted", file=sys.stderr)
        return 130


def _train(
    args: argparse.Namespace,
    ranks: Ranks,
    config: TrainConfig,
    folder: Path,
    checkpoint: Checkpoint | None,
) -> int:
    from rich.console import Console

    from sslkern.train.job import Job, run_job

    job = Job(config, folder, checkpoint, args.steps, args.checkpoint_every)
    quiet = args.quiet or not ranks.is_first
    try:
        run_job(job, Console(quiet=not ranks.is_first), Console(quiet=quiet), ranks)
    except KeyboardInterrupt:
        if ranks.is_first:
            print(f"\nsslkern train: interrupted; {_way_on(folder)}", file=sys.stderr, flush=True)
        return 130
    except ValueError as error:  # of the method, for its options
        raise UserError(str(error)) from error
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


SETTINGS = ("method", "data", "epochs", "batch_size", "lr", "seed", "dtype", "amp", "compile")


def _config(args: argparse.Namespace, checkpoint: Checkpoint | None) -> TrainConfig:
    """The flags' settings, then the file's, the others from the checkpoint or the recipe."""
    given: dict[str, Any] = {} if args.config is None else read_config(args.config)
    given |= {name: getattr(args, name) for name in SETTINGS if hasattr(args, name)}
    given["options"] = given.get("options", {}) | parse_options(getattr(args, "set", []))
    if checkpoint is None:
        given.setdefault("method", DEFAULT_METHOD)
        if args.quick and given["method"] in recipe_names():
            given.setdefault("epochs", load_recipe(given["method"]).quick)
        return TrainConfig.of(**given)
    _check_unchanged(given, checkpoint)
    return checkpoint.config


def _check_unchanged(given: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Refuse settings that contradict the run that is resumed."""
    saved = checkpoint.config.as_dict()
    wanted = TrainConfig.of(**{**saved, **given, "options": saved["options"] | given["options"]})
    for name, value in wanted.as_dict().items():
        if value != saved[name]:
            flag = "set" if name == "options" else name.replace("_", "-")
            raise UserError(
                f"{checkpoint.path} was written with --{flag} {saved[name]}, which --resume "
                f"cannot change to {value}"
            )


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
