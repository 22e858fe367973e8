"""``python -m sslkern scaling``: what sharing a batch among processes costs."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sslkern.bench.contenders import Size
from sslkern.cli import arguments
from sslkern.cli.bench import OUTPUT_FOLDER, parse_sizes
from sslkern.cli.errors import UserError

if TYPE_CHECKING:
    from sslkern.bench.scaling import Plan

LOSSES = ("ntxent", "clip", "info_nce")
DEFAULT_SIZES = (Size(1024, 128), Size(4096, 128), Size(4096, 512))
DEFAULT_PER_RANK = (Size(512, 1024),)

DESCRIPTION = """\
Measures forward + backward of losses whose batch is spread over real processes (gloo, on this
machine), by both strategies, against one process with the whole batch: time, work, peak memory,
bytes sent. Then the peak memory with as many rows on each of more and more ranks. Writes all raw
numbers as JSON."""

EPILOG = """\
reading the table
  size         NxD: N pairs of rows on all ranks together, of D features
  time         median over the rounds, from a barrier until the last rank is done. Ranks run on one
               thread each and share the cores of this machine: no speed of machines of their own
  work         processor time of all ranks together over that of one process, the median over the
               rounds: what sharing costs, however many cores there are
  peak memory  beyond inputs, loss and gradients, of the rank with most
  sent         bytes for other ranks, counted at the collectives, of the rank with most
  sockets      the same as the system counts it, with all that the backend adds

example
  python -m sslkern scaling --loss clip --sizes 2048x256 --processes 2,4,8"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``scaling`` to the command line."""
    parser = subparsers.add_parser(
        "scaling",
        help="compare the ways to share a batch among processes",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--loss",
        type=arguments.words,
        default=LOSSES,
        metavar="A,B",
        help=f"of {', '.join(LOSSES)}; default: all",
    )
    parser.add_argument(
        "--sizes",
        type=parse_sizes,
        default=DEFAULT_SIZES,
        metavar="NxD,...",
        help=f"pairs of all ranks; default: {','.join(map(str, DEFAULT_SIZES))}",
    )
    parser.add_argument(
        "--processes",
        type=_counts,
        default=(2, 4),
        metavar="W,...",
        help="ranks that share them, at least 2; default: 2,4",
    )
    parser.add_argument(
        "--per-rank",
        type=parse_sizes,
        default=DEFAULT_PER_RANK,
        metavar="NxD,...",
        help="pairs of each rank, for the memory with more and more of them;"
        f" default: {','.join(map(str, DEFAULT_PER_RANK))}",
    )
    parser.add_argument(
        "--per-rank-processes",
        type=_counts,
        default=(1, 2, 4, 8),
        metavar="W,...",
        help="how many; default: 1,2,4,8",
    )
    arguments.add_dtype(parser)
    arguments.add_repeats(parser)
    parser.add_argument(
        "--json",
        type=Path,
        metavar="PATH",
        help=f"default: {OUTPUT_FOLDER}/scaling-<dtype>.json",
    )
    parser.set_defaults(run=run)


def _counts(text: str) -> tuple[int, ...]:
    """``2,4`` -> (2, 4)."""
    return tuple(dict.fromkeys(arguments.positive_int(word) for word in arguments.words(text)))


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    dtype = str(args.dtype).removeprefix("torch.")
    _check(args)
    arguments.require("rich", "bench")
    path = args.json or OUTPUT_FOLDER / f"scaling-{dtype}.json"
    arguments.check_writable(path)

    from sslkern.bench import scaling
    from sslkern.bench.environment import stamp
    from sslkern.bench.progress import Reporter
    from sslkern.bench.scaling_table import print_results

    torch.set_num_threads(1)  # as in the ranks; the stamp says so
    plan = _plan(args, dtype)
    results = scaling.Results(stamp(f"python -m sslkern {shlex.join(args.argv)}"))
    with Reporter() as progress:
        scaling.measure(plan, results, progress)
    print_results(results)
    try:
        scaling.write_json(results, path)
    except OSError as error:
        raise UserError(f"cannot write the results: {error}") from error
    print(f"results: {path}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        raise UserError("expected a torch with gloo, got one without")
    for name in args.loss:
        if name not in LOSSES:
            raise UserError(f"argument --loss: expected some of {', '.join(LOSSES)}, got {name!r}")
    if min(args.processes) < 2:
        raise UserError("argument --processes: expected at least 2 processes, got 1")
    for size in (*args.sizes, *args.per_rank):
        if size.rows < 1 or size.dim < 1:
            raise UserError(f"argument --sizes: expected N and D to be at least 1, got {size}")
    for size in args.sizes:
        for count in args.processes:
            if size.rows % count:
                raise UserError(
                    f"argument --sizes: expected N to be a multiple of {count}, the number of"
                    f" processes, got {size}"
                )


def _plan(args: argparse.Namespace, dtype: str) -> Plan:
    from sslkern.bench.scaling import Plan

    return Plan(
        args.loss,
        args.sizes,
        args.processes,
        args.per_rank,
        args.per_rank_processes,
        dtype,
        args.repeats,
    )
