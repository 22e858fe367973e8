"""``python -m sslkern bench``: the fused losses against what else there is."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import sslkern
from sslkern.bench import CASES
from sslkern.bench.contenders import Case, Contender, Size, working_dtype
from sslkern.bench.device import default_device, name_of
from sslkern.cli import arguments, bench_peers
from sslkern.cli.errors import UserError

if TYPE_CHECKING:
    from sslkern.bench.harness import Plan
    from sslkern.bench.results import Results

OUTPUT_FOLDER = Path("bench-results")
DEFAULT_LOSS = "ntxent"

DESCRIPTION = """\
Times forward + backward of a loss: the fused kernel, eager PyTorch, torch.compile and the peers
that are installed. Also measures peak memory beyond inputs and gradients and the error against
the float64 reference. Writes all raw times as JSON and a plot as PNG."""

EPILOG = """\
contenders
{contenders}

reading the table
  time        median of the rounds; every round runs each contender once
  faster by   median over the rounds of (time of the contender / time of sslkern)
  ... sgemm   a floor: products of the same shape by torch.mm, the arithmetic that forward and
              backward cannot avoid
  FMA peak    that arithmetic per second over the peak measured on this machine
  errors      of the loss: relative; of the gradient: relative L2; both against float64

examples
  python -m sslkern bench
  python -m sslkern bench --sizes 512x128,1024x128,2048x128,4096x128 --plot sweep.png
  python -m sslkern bench --loss clip
  python -m sslkern bench --dtype bfloat16 --contenders sslkern,eager --no-memory
  python -m sslkern bench --peers --folder results"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``bench`` to the command line."""
    parser = subparsers.add_parser(
        "bench",
        help="compare speed, memory and accuracy with PyTorch and peers",
        description=DESCRIPTION,
        epilog=EPILOG.format(contenders=_list_contenders()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--loss", choices=sorted(CASES), help=f"default: {DEFAULT_LOSS}; with --peers: all"
    )
    parser.add_argument(
        "--sizes",
        type=parse_sizes,
        metavar="NxD,...",
        help="N rows of D features: of both views together (ntxent, dcl), queries (info_nce,"
        " negative_sampling), pairs (clip, siglip, in_batch), rows of scores (soft_cross_entropy"
        " with D classes, sinkhorn with D prototypes), tokens (linear_cross_entropy), all (supcon)"
        f" or of each view (the others); default: {_default_sizes()}",
    )
    arguments.add_dtype(parser)
    parser.set_defaults(dtype=None)  # float32, or with --peers several
    parser.add_argument(
        "--threads",
        type=arguments.positive_int,
        metavar="N",
        help="threads of PyTorch and of the kernels; default: PyTorch's own choice",
    )
    arguments.add_repeats(parser)
    parser.add_argument(
        "--contenders",
        type=arguments.words,
        metavar="A,B",
        help="only these; default: all that are installed",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="PATH",
        help=f"default: {OUTPUT_FOLDER}/<loss>-<dtype>.json",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PATH",
        help=f"default: {OUTPUT_FOLDER}/<loss>-<dtype>.png",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="default: cuda where there is a device, else cpu; here"
        f" {default_device()}; with --peers: cpu",
    )
    parser.add_argument(
        "--no-memory",
        action="store_true",
        help="do not measure peak memory (which takes a process per contender and size)",
    )
    bench_peers.add_options(parser)
    parser.set_defaults(run=run)


def _default_sizes() -> str:
    return "; ".join(
        f"{','.join(map(str, case.default_sizes))} ({case.name})" for case in CASES.values()
    )


def _list_contenders() -> str:
    return "\n".join(
        f"  {case.name}: {contender.name} ({contender.about})"
        for case in CASES.values()
        for contender in case.contenders
    )


def parse_sizes(text: str) -> tuple[Size, ...]:
    """``2048x128,8192x128`` -> sizes, in this order and each once."""
    sizes = []
    for word in arguments.words(text):
        match = re.fullmatch(r"(\d+)x(\d+)", word)
        if match is None:
            raise argparse.ArgumentTypeError(
                f"expected sizes such as 2048x128 (rows x features), got {word!r}"
            )
        sizes.append(Size(int(match[1]), int(match[2])))
    return tuple(dict.fromkeys(sizes))


def run(args: argparse.Namespace) -> int:
    """Measure, print, write. 1 if the fused kernel failed at a size."""
    if args.peers:
        return bench_peers.run(args)
    args.loss, args.dtype = args.loss or DEFAULT_LOSS, args.dtype or torch.float32
    args.device = args.device or default_device()
    case = CASES[args.loss]
    sizes = args.sizes or case.default_sizes
    _check_sizes(case, sizes)
    contenders = _choose(case, args.contenders)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("argument --device: expected a CUDA device, got none that torch finds")
    arguments.require("rich", "bench")
    json_path, plot_path = _outputs(args)

    from sslkern.bench.environment import stamp
    from sslkern.bench.harness import Plan
    from sslkern.bench.results import OURS, Results

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    threads = torch.get_num_threads()
    memory = not args.no_memory
    plan = Plan(sizes, args.dtype, contenders, threads, args.repeats, memory, args.device)
    command = f"python -m sslkern {shlex.join(args.argv)}"
    results = Results(stamp(command, name_of(args.device)), None, [])
    _measure(case, plan, results)
    _publish(case, plan, results, json_path, plot_path)
    return int(any(row.contender == OURS and row.status == "failed" for row in results.rows))


def _check_sizes(case: Case, sizes: tuple[Size, ...]) -> None:
    for size in sizes:
        try:
            case.check_size(size)
        except ValueError as error:
            raise UserError(f"argument --sizes: {error}") from None


def _choose(case: Case, names: tuple[str, ...] | None) -> tuple[Contender, ...]:
    """The contenders asked for, in the order of the case."""
    known = {contender.name: contender for contender in case.contenders}
    for name in names or ():
        if name not in known:
            raise UserError(
                f"argument --contenders: expected some of {', '.join(known)}, got {name!r}"
            )
    return tuple(c for c in case.contenders if names is None or c.name in names)


def _outputs(args: argparse.Namespace) -> tuple[Path, Path | None]:
    """Where the results go; no plot if matplotlib is absent and nobody asked for one."""
    stem = f"{args.loss}-{str(args.dtype).removeprefix('torch.')}"
    json_path = args.json or OUTPUT_FOLDER / f"{stem}.json"
    plot_path = args.plot or OUTPUT_FOLDER / f"{stem}.png"
    if args.plot is not None:
        arguments.require("matplotlib", "bench")
        if plot_path.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise UserError(f"argument --plot: expected a .png, .svg or .pdf file, got {plot_path}")
    elif importlib.util.find_spec("matplotlib") is None:
        print("no plot: pip install 'sslkern[bench]' for matplotlib")
        plot_path = None
    for path in (json_path, plot_path):
        if path is not None:
            arguments.check_writable(path)
    return json_path, plot_path


def _fma_peaks(plan: Plan) -> list[float]:
    """A few measurements in GFLOP/s of the dtype of the arithmetic; of the CPU alone."""
    if plan.device != "cpu":
        return []
    try:
        return [sslkern.fma_peak(working_dtype(plan.dtype), plan.threads) for _ in range(3)]
    except (AttributeError, ImportError):
        return []


def _measure(case: Case, plan: Plan, results: Results) -> None:
    """Measure all sizes, and the peak of the machine before and between them.

    The peak is the largest of its measurements: whatever disturbs one only lowers it.
    """
    from sslkern.bench.harness import run_size
    from sslkern.bench.progress import Reporter
    from sslkern.bench.results import compare

    peaks = _fma_peaks(plan)
    with Reporter() as progress:
        for size in plan.sizes:
            results.rows += run_size(case, plan, size, progress)
            peaks += _fma_peaks(plan)
    results.fma_peak_gflops = max(peaks, default=None)
    for size in plan.sizes:
        rows = [row for row in results.rows if row.size == size]
        compare(rows, case.flops(size), results.fma_peak_gflops)


def _publish(
    case: Case, plan: Plan, results: Results, json_path: Path, plot_path: Path | None
) -> None:
    from sslkern.bench.results import write_json
    from sslkern.bench.table import print_results

    dtype = str(plan.dtype).removeprefix("torch.")
    threads = "1 thread" if plan.threads == 1 else f"{plan.threads} threads"
    threads = threads if plan.device == "cpu" else plan.device
    title = f"{case.title}, {case.passes}, {dtype}, {threads}"
    print_results(results, title)
    try:
        write_json(results, json_path)
        print(f"results: {json_path}")
        if plot_path is not None and any(row.times_s for row in results.rows):
            from sslkern.bench.plot import save_plot

            save_plot(results, title, plot_path)
            print(f"plot: {plot_path}")
    except OSError as error:  # checked before the work, but a disk can fill up meanwhile
        raise UserError(f"cannot write the results: {error}") from error
