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
    from sslkern.model.operators import Operator
    from sslkern.model.runs import Fits

OPS = ("ntxent", "info_nce", "clip", "siglip")
GPU_NAMES = ("h100", "a100")
DEFAULT_SIZES = (Size(32768, 128), Size(32768, 256))

DESCRIPTION = """\
A roofline model of the CUDA kernels: a model, not a measurement. The PTX that nvcc makes of them
is executed by an interpreter at small sizes, which counts instructions, sectors of global memory
and bank conflicts; the counts are taken to the sizes asked for and divided by the published
ceilings of a GPU. Needs a source checkout, nvcc and a C++ compiler; takes minutes for a large D."""

EPILOG = """\
reading the table
  matrix ... DRAM  least time of each unit in ms; a kernel is given the largest of them. Nothing
                   is modelled of latency, occupancy, launches or what does not overlap
  issue            PTX instructions without moves; machine code has fewer for addresses
  L2               all sectors asked for, as if the first cache held nothing
  DRAM             sectors asked for at least once by a launch
  eff              bytes asked for of those in the sectors
  conflicts        wavefronts of shared memory beyond the least, of all
  fit              how far the check of the counts was off; exact: not at all
  products         matrix products by the library, at the dense peak
  floor            the largest of: products (of kernels by mma.sync, of the library at the
                   dense peak), N^2 exponentials, embeddings once

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
        default=DEFAULT_SIZES,
        metavar="NxD,...",
        help=f"N rows of D features; default: {','.join(map(str, DEFAULT_SIZES))}",
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
    """Count, fit, print."""
    from sslkern.model import emulation, runs
    from sslkern.model.gpus import GPUS
    from sslkern.model.operators import OPERATORS

    op = OPERATORS[args.op]
    for size in args.sizes:
        try:
            op.check_size(size)
        except ValueError as error:
            raise UserError(f"argument --sizes: {error}") from None
    arguments.require("rich", "bench")
    gpu = GPUS[args.gpu]
    library = emulation.library(gpu.shared_bytes)
    fits: dict[int, Fits] = {}
    for size in args.sizes:
        if size.dim not in fits:
            fits[size.dim] = runs.fits(library, op, size.dim, args.dtype)
        _print(op, fits[size.dim], size, args.dtype, gpu)
    print("A model, not a measurement. Ceilings:")
    for source in gpu.sources:
        print(f"  {source}")
    return 0


COLUMNS = ("matrix", "special", "fp32", "integer", "issue", "shared", "L2", "DRAM")


def _print(op: Operator, fits: Fits, size: Size, dtype: torch.dtype, gpu: Gpu) -> None:
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
    passes = [part for part, kernels in fits.kernels.items() if kernels]
    notes = [_add_pass(table, op, part, fits, size, dtype, gpu) for part in passes]
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)


def _add_pass(
    table: Table, op: Operator, part: str, fits: Fits, size: Size, dtype: torch.dtype, gpu: Gpu
) -> str:
    """Add the kernels of a pass; its sum beside its floor, as a line."""
    from sslkern.model.counts import sector_efficiency
    from sslkern.model.fit import Walk
    from sslkern.model.operators import TILE, product_rate
    from sslkern.model.roofline import predict

    seconds = 0.0
    for kernel, fit in fits.kernels[part].items():
        counts = fit.at(op.walk(part, kernel, size, dtype))
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
            "exact" if fit.error == 0 else f"{fit.error:.2%}",
        )
    flop = fits.product_flop[part].at(Walk(size.rows // TILE, 1))["flop"]
    products = flop / product_rate(dtype, gpu)
    floors = op.floors(part, size, dtype, gpu)
    floor = max(floors.values())
    parts = ", ".join(f"{unit} {_ms(time)}" for unit, time in floors.items())
    return (
        f"{part}: kernels {_ms(seconds)} ms + products {_ms(products)} ms ({flop / 1e9:.0f} GFLOP)"
        f" = {_ms(seconds + products)} ms; floor {_ms(floor)} ms ({parts});"
        f" predicted / floor {(seconds + products) / floor:.2f}"
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f}"
