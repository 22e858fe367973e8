"""``python -m sslkern model``: what the CUDA kernels would take, modelled without a GPU."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import torch

from sslkern.bench.contenders import Size
from sslkern.cli import arguments
from sslkern.cli.bench import parse_sizes
from sslkern.cli.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from sslkern.model.gpus import Gpu
    from sslkern.model.work import Counted, Operator, Work

OPS = (
    *("ntxent", "info_nce", "clip", "siglip", "supcon", "linear_cross_entropy"),
    *("sinkhorn", "swav", "soft_cross_entropy"),
    *("cross_correlation", "covariance", "negative_sampling"),
)
GPU_NAMES = ("h100", "a100")

DESCRIPTION = """\
A roofline model of the CUDA kernels: a model, not a measurement. The PTX that nvcc makes of them
is executed by an interpreter, which counts instructions, sectors of global memory and bank
conflicts; the counts are divided by the published ceilings of a GPU. Losses that compare N rows
with as many are executed at small sizes, from which the counts are taken to those asked for; the
others at the sizes themselves. Needs a source checkout, nvcc and a C++ compiler; takes minutes for
a large D, and where all is executed."""

EPILOG = """\
reading the table
  matrix ... DRAM  least time of each unit in ms; a kernel is given the largest of them. Nothing
                   is modelled of latency, occupancy, launches or what does not overlap. The limit
                   may be fp64 or convert, too, which have no column
  issue            PTX instructions without moves; machine code has fewer for addresses
  L2               all sectors asked for, as if the first cache held nothing
  DRAM             sectors asked for at least once by a launch
  eff              bytes asked for of those in the sectors
  conflicts        wavefronts of shared memory beyond the least, of all
  fit              how far the check of the counts was off; exact: not at all, or all was executed
  products         matrix products by the library, at the dense peak; of float32 by multiply-adds.
                   Those of columns (cross_correlation, covariance) are in float32 for half types
  floor            the largest of: products (of kernels by mma.sync, of the library at the
                   dense peak), the exponentials, and what is read and written: embeddings once,
                   scores of sinkhorn, swav and soft_cross_entropy as often as passes need them.
                   All similarities count, also where they are symmetric (ntxent, supcon)

inputs
  those of `bench` at random, but: supcon has classes of two, linear_cross_entropy as many classes
  as rows

example
  python -m sslkern model --op ntxent --sizes 32768x128,32768x256 --dtype bfloat16 --gpu h100"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``model`` to the command line."""
    parser = subparsers.add_parser(
        "model",
        help="model the time of CUDA kernels without a GPU (from a checkout)",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--op", choices=OPS, default="ntxent", help="default: %(default)s")
    parser.add_argument(
        "--sizes",
        type=parse_sizes,
        metavar="NxD,...",
        help="N rows of D features or scores; default: 32768x128,32768x256, or those of `bench`",
    )
    parser.add_argument(
        "--dtype",
        type=arguments.dtype,
        default=torch.bfloat16,
        metavar="DTYPE",
        help=f"{', '.join(arguments.DTYPES)}; default: bfloat16",
    )
    parser.add_argument("--gpu", choices=GPU_NAMES, default="h100", help="default: %(default)s")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Count, print."""
    from sslkern.model import emulation
    from sslkern.model.gpus import GPUS
    from sslkern.model.operators import OPERATORS

    op = OPERATORS[args.op]
    sizes = args.sizes or op.default_sizes
    for size in sizes:
        try:
            op.check_size(size)
        except ValueError as error:
            raise UserError(f"argument --sizes: {error}") from None
    arguments.require("rich", "bench")
    gpu = GPUS[args.gpu]
    library = emulation.library(gpu.shared_bytes)
    for size in sizes:
        _print(op, op.count(library, size, args.dtype), size, args.dtype, gpu)
    print("A model, not a measurement. Ceilings:")
    for source in gpu.sources:
        print(f"  {source}")
    return 0


COLUMNS = ("matrix", "special", "fp32", "integer", "issue", "shared", "L2", "DRAM")


def _print(op: Operator, counted: Counted, size: Size, dtype: torch.dtype, gpu: Gpu) -> None:
    from rich import box
    from rich.table import Table

    from sslkern.bench.table import stdout_console

    name = str(dtype).removeprefix("torch.")
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    headings = ("launches", *COLUMNS, "ms", "limit", "eff", "conflicts", "fit")
    table.add_column("kernel", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    console = stdout_console()
    title = f"{op.name} {size}, {name}, {gpu.name}: a model, not a measurement"
    console.print(title, style="italic", highlight=False)
    passes = [part for part, kernels in counted.kernels.items() if kernels]
    products = op.product_dtype(dtype)
    notes = [
        _add_pass(table, part, counted, op.work(part, size, dtype), products, gpu)
        for part in passes
    ]
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)


def _add_pass(
    table: Table, part: str, counted: Counted, work: Work, dtype: torch.dtype, gpu: Gpu
) -> str:
    """Add the kernels of a pass; its sum beside its floor, as a line. The dtype is of products."""
    from sslkern.model.counts import sector_efficiency
    from sslkern.model.roofline import predict
    from sslkern.model.work import library_rate

    seconds = 0.0
    for kernel, (counts, error) in counted.kernels[part].items():
        found = predict(counts, gpu)
        seconds += found.seconds
        table.add_row(
            kernel.removesuffix("_kernel"),
            f"{counts['launches']:.0f}",
            *(_ms(found.units[unit]) for unit in COLUMNS),
            _ms(found.seconds),
            found.limit,
            f"{sector_efficiency(counts):.0%}",
            f"{counts['conflicts'] / max(counts['wavefronts'], 1):.1%}",
            "exact" if error == 0 else f"{error:.2%}",
        )
    flop = counted.product_flop[part]
    products = flop / library_rate(dtype, gpu)
    floors = work.seconds(dtype, gpu)
    floor = max(floors.values())
    parts = ", ".join(f"{unit} {_ms(time)}" for unit, time in floors.items())
    return (
        f"{part}: kernels {_ms(seconds)} ms + products {_ms(products)} ms ({flop / 1e9:.0f} GFLOP)"
        f" = {_ms(seconds + products)} ms; floor {_ms(floor)} ms ({parts});"
        f" predicted / floor {(seconds + products) / floor:.2f}"
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f}"
