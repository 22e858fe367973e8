"""``python -m sslkern bench --peers``: every loss that another library has, size by size."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
from pathlib import Path

import torch

from sslkern.bench import CASES
from sslkern.bench.contenders import Case
from sslkern.bench.environment import available_memory, stamp
from sslkern.bench.results import OURS, Results, write_json
from sslkern.bench.sweep import Limits, Sweep, is_limit
from sslkern.cli import arguments
from sslkern.cli.errors import UserError

FOLDER = Path("bench-results/peers")
DTYPES = (torch.float32, torch.bfloat16)
ALONE = ("json", "plot", "contenders", "no_memory")
"""Options of `bench` that ``--peers`` does not take."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--peers`` and what goes with it."""
    limits = Limits()
    group = parser.add_argument_group(
        "against other libraries",
        "Takes every loss that an installed library has as well, in float32 and bfloat16, from a"
        " small batch to the largest that each contender survives, forward alone (which wants no"
        " gradient) and with the backward pass. Each contender has a process of its own: one that"
        " runs out of memory or time ends its own line alone. A loss and dtype whose file is there"
        " is not measured again, so a run that was interrupted goes on.",
    )
    group.add_argument("--peers", action="store_true", help="do this in place of the above")
    group.add_argument(
        "--folder",
        type=Path,
        default=FOLDER,
        metavar="PATH",
        help="of <loss>-<dtype>.json and .png; default: %(default)s",
    )
    group.add_argument(
        "--memory-limit",
        type=arguments.positive_number,
        default=limits.memory_gib,
        metavar="GiB",
        help="that a step may add to its process; default: %(default)g",
    )
    group.add_argument(
        "--time-limit",
        type=arguments.positive_number,
        default=limits.step_s,
        metavar="S",
        help="seconds that a step may take; default: %(default)g",
    )
    group.add_argument("--again", action="store_true", help="measure anew what is there")


def run(args: argparse.Namespace) -> int:
    """Measure and write what is not there yet. 1 if the fused kernel failed within its limits."""
    cases = _cases(args)
    limits = _limits(args)
    arguments.require("rich", "bench")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    arguments.check_writable(args.folder / "any.json")
    failed = False
    for case in cases:
        for dtype in (args.dtype,) if args.dtype else DTYPES:
            name = str(dtype).removeprefix("torch.")
            path = args.folder / f"{case.name}-{name}.json"
            if path.exists() and not args.again:
                print(f"kept: {path}")
                continue
            threads = torch.get_num_threads()
            sweep = Sweep(case, name, limits, threads, args.repeats, args.sizes)
            failed |= _measure(sweep, path, f"python -m sslkern {shlex.join(args.argv)}")
    return int(failed)


def _cases(args: argparse.Namespace) -> list[Case]:
    for option in ALONE:
        if getattr(args, option):
            raise UserError(f"argument --{option.replace('_', '-')}: not with --peers")
    if args.device not in (None, "cpu"):
        raise UserError(f"argument --device: expected cpu with --peers, got {args.device}")
    cases = [case for case in CASES.values() if case.peer_sizes]
    if args.loss is not None:
        cases = [case for case in cases if case.name == args.loss]
        if not cases:
            raise UserError(f"argument --loss: no other library has {args.loss}")
    for case in cases:
        for size in args.sizes or ():
            try:
                case.check_size(size)
            except ValueError as error:
                raise UserError(f"argument --sizes: {error}") from None
    return cases


def _limits(args: argparse.Namespace) -> Limits:
    """The limits, if the memory is there: else the system would end whom it likes."""
    available = available_memory()
    if available is not None and args.memory_limit * 2**30 > available:
        raise UserError(
            f"argument --memory-limit: expected at most the {available / 2**30:.1f} GiB that are"
            f" available, got {args.memory_limit:g}"
        )
    return Limits(args.memory_limit, args.time_limit)


def _measure(sweep: Sweep, path: Path, command: str) -> bool:
    """Measure and write one file, and its plot; whether ours failed where no limit ended it."""
    from sslkern.bench.progress import Reporter
    from sslkern.bench.sweep import run_sweep
    from sslkern.bench.table import notes

    results = Results(stamp(command), None, [], sweep.limits.as_dict())
    with Reporter() as progress:
        results.rows += run_sweep(sweep, progress)
    for note in notes(results.rows):
        print(note)
    write_json(results, path)
    print(f"results: {path}")
    _plot(results, sweep, path.with_suffix(".png"))
    ours = [row for row in results.rows if row.contender == OURS]
    return any(row.status == "failed" and not is_limit(str(row.reason)) for row in ours)


def _plot(results: Results, sweep: Sweep, path: Path) -> None:
    """Draw the results, if matplotlib is there."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no plot: pip install 'sslkern[bench]' for matplotlib")
    elif any(row.times_s for row in results.rows):
        from sslkern.bench.plot import save_plot

        title = f"{sweep.case.title}, {sweep.dtype}, threads: {sweep.threads}"
        save_plot(results, title, path, dpi=90)
        print(f"plot: {path}")
